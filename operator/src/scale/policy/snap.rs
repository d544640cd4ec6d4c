//! Which numbers of replicas differ from one another, for a number of partitions. Pure.

/// How many replicas' worth so many do: the one with the most partitions is the last to be done. 3 of 7 partitions make
/// 7/3; 4, 5 and 6 all make 7/2.
pub fn effective(replicas: i32, partitions: usize) -> f64 {
    let replicas = usize::try_from(replicas).unwrap_or(0).min(partitions);
    if replicas == 0 { 0.0 } else { partitions as f64 / partitions.div_ceil(replicas) as f64 }
}

/// The numbers of replicas of which none does the same as a smaller one, in order. Among them are all divisors of the
/// number of partitions.
pub(super) fn useful(partitions: usize) -> impl Iterator<Item = i32> {
    let mut last = 0.0;
    (1..=i32::try_from(partitions).unwrap_or(i32::MAX)).filter(move |replicas| {
        let does = effective(*replicas, partitions);
        let is_more = does > last;
        last = does;
        is_more
    })
}

/// The fewest replicas that do as much as `replicas`.
pub(super) fn most(replicas: i32, partitions: usize) -> i32 {
    useful(partitions).take_while(|useful| *useful <= replicas).last().unwrap_or(1)
}

/// The next number below that does less.
pub(super) fn below(replicas: i32, partitions: usize) -> i32 {
    useful(partitions).take_while(|useful| *useful < replicas).last().unwrap_or(1)
}

/// The next number above that does more; the same where none does.
pub(super) fn above(replicas: i32, partitions: usize) -> i32 {
    useful(partitions)
        .find(|useful| effective(*useful, partitions) > effective(replicas, partitions))
        .unwrap_or(replicas)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replicas_that_would_only_idle_beside_the_busiest_are_left_out() {
        let all = |partitions| useful(partitions).collect::<Vec<_>>();
        assert_eq!(all(1), [1]);
        assert_eq!(all(6), [1, 2, 3, 6]);
        assert_eq!(all(12), [1, 2, 3, 4, 6, 12]);
        assert_eq!(all(7), [1, 2, 3, 4, 7]);
        assert_eq!((most(5, 6), most(9, 6), most(1, 6)), (3, 6, 1));
        assert_eq!((below(6, 6), below(5, 6), below(1, 6)), (3, 3, 1));
    }

    #[test]
    fn the_busiest_replica_bounds_all() {
        assert_eq!((effective(0, 6), effective(3, 6), effective(9, 6)), (0.0, 3.0, 6.0));
        assert!((effective(4, 6) - 3.0).abs() < 1e-9);
        assert!((effective(3, 7) - 7.0 / 3.0).abs() < 1e-9);
    }
}
