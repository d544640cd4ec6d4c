//! The policy of autoscaling in a simulated world, beside what others document to do in the same one. `make scale` prints
//! the table.

#[cfg(test)]
mod goals;
#[cfg(test)]
mod rivals;
#[cfg(test)]
mod scenarios;
#[cfg(test)]
mod world;
