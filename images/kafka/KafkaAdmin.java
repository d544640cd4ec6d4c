import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Collection;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.Set;
import java.util.concurrent.ExecutionException;
import java.util.stream.Collectors;
import java.util.stream.Stream;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.AlterConfigOp;
import org.apache.kafka.clients.admin.ConfigEntry;
import org.apache.kafka.clients.admin.ScramCredentialInfo;
import org.apache.kafka.clients.admin.ScramMechanism;
import org.apache.kafka.clients.admin.UserScramCredentialAlteration;
import org.apache.kafka.clients.admin.UserScramCredentialDeletion;
import org.apache.kafka.clients.admin.UserScramCredentialUpsertion;
import org.apache.kafka.common.acl.AccessControlEntry;
import org.apache.kafka.common.acl.AccessControlEntryFilter;
import org.apache.kafka.common.acl.AclBinding;
import org.apache.kafka.common.acl.AclBindingFilter;
import org.apache.kafka.common.acl.AclOperation;
import org.apache.kafka.common.acl.AclPermissionType;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.resource.PatternType;
import org.apache.kafka.common.resource.ResourcePattern;
import org.apache.kafka.common.resource.ResourcePatternFilter;
import org.apache.kafka.common.resource.ResourceType;
import org.apache.kafka.common.utils.SecurityUtils;

/**
 * Manages users, their rights and certificates of the broker at the address given, without starting Java for each
 * of them: one command a line on the standard input, whose passwords are then no process's arguments.
 * tests/e2e/cluster/kafka-admin lists the commands.
 */
public final class KafkaAdmin {
    private static final int ITERATIONS = 4096;
    private static final long PROPAGATION_MS = 10_000;

    private final Admin admin;

    private KafkaAdmin(Admin admin) {
        this.admin = admin;
    }

    public static void main(String[] arguments) throws Exception {
        Properties properties = new Properties();
        properties.put("bootstrap.servers", arguments[0]);
        BufferedReader lines = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        try (Admin admin = Admin.create(properties)) {
            KafkaAdmin tool = new KafkaAdmin(admin);
            for (String line = lines.readLine(); line != null; line = lines.readLine()) {
                if (!line.isBlank()) {
                    tool.runOrExit(line.strip().split("\\s+"));
                }
            }
        }
    }

    private void runOrExit(String[] words) {
        try {
            run(words);
        } catch (Exception error) {
            Throwable cause = error instanceof ExecutionException ? error.getCause() : error;
            System.err.println(words[0] + ": " + cause.getMessage());
            System.exit(1);
        }
    }

    private void run(String[] words) throws Exception {
        switch (words[0] + "/" + (words.length - 1)) {
            case "user/2" -> setPassword(words[1], words[2]);
            case "user-if-missing/2" -> {
                if (mechanismsOf(words[1]).isEmpty()) {
                    setPassword(words[1], words[2]);
                }
            }
            case "remove-user/1" -> removeUser(words[1]);
            case "allow/4" -> allow(words[1], words[2], words[3], words[4].split(","));
            case "revoke/1" -> revoke(words[1]);
            case "acls/0" -> print(aclsOf(null));
            case "acls/1" -> print(aclsOf(words[1]));
            case "reload-certificates/1" -> reloadCertificates(words[1].split(","));
            // The words may be a password.
            default -> throw new IllegalArgumentException("there is no such command with " + (words.length - 1) + " words");
        }
    }

    private void setPassword(String user, String password) throws Exception {
        for (ScramMechanism mechanism : List.of(ScramMechanism.SCRAM_SHA_256, ScramMechanism.SCRAM_SHA_512)) {
            alter(new UserScramCredentialUpsertion(user, new ScramCredentialInfo(mechanism, ITERATIONS), password));
        }
    }

    private void removeUser(String user) throws Exception {
        for (ScramMechanism mechanism : mechanismsOf(user)) {
            alter(new UserScramCredentialDeletion(user, mechanism));
        }
        revoke(user);
    }

    /** A request may hold no more than one change of a user. */
    private void alter(UserScramCredentialAlteration alteration) throws Exception {
        admin.alterUserScramCredentials(List.of(alteration)).all().get();
    }

    private List<ScramMechanism> mechanismsOf(String user) throws Exception {
        var known = admin.describeUserScramCredentials().all().get().get(user);
        return known == null ? List.of() : known.credentialInfos().stream().map(ScramCredentialInfo::mechanism).toList();
    }

    private void allow(String user, String type, String name, String[] operations) throws Exception {
        List<AclBinding> bindings = new ArrayList<>();
        for (String operation : operations) {
            bindings.add(new AclBinding(resource(type, name), new AccessControlEntry(
                principal(user), "*", operation(operation), AclPermissionType.ALLOW)));
        }
        admin.createAcls(bindings).all().get();
        waitUntil(() -> Set.copyOf(aclsOf(user)).containsAll(bindings));
    }

    /** `orders` is that resource, `orders-*` is all whose names begin so, `*` is all. */
    private static ResourcePattern resource(String type, String name) {
        ResourceType resourceType = SecurityUtils.resourceType(type);
        if (resourceType.isUnknown()) {
            throw new IllegalArgumentException("no type of resource is called " + type);
        }
        boolean prefixed = name.length() > 1 && name.endsWith("*");
        return new ResourcePattern(resourceType,
            prefixed ? name.substring(0, name.length() - 1) : name,
            prefixed ? PatternType.PREFIXED : PatternType.LITERAL);
    }

    private static AclOperation operation(String name) {
        AclOperation operation = SecurityUtils.operation(name);
        if (operation.isUnknown()) {
            throw new IllegalArgumentException("no operation is called " + name);
        }
        return operation;
    }

    private void revoke(String user) throws Exception {
        admin.deleteAcls(List.of(filter(user))).all().get();
        waitUntil(() -> aclsOf(user).isEmpty());
    }

    private Collection<AclBinding> aclsOf(String user) throws Exception {
        return admin.describeAcls(filter(user)).values().get();
    }

    private static AclBindingFilter filter(String user) {
        return new AclBindingFilter(new ResourcePatternFilter(ResourceType.ANY, null, PatternType.ANY),
            new AccessControlEntryFilter(
                user == null ? null : principal(user), null, AclOperation.ANY, AclPermissionType.ANY));
    }

    private static String principal(String user) {
        return "User:" + user;
    }

    /** In the shape of the command that allows it. */
    private static void print(Collection<AclBinding> bindings) {
        bindings.stream()
            .map(binding -> Stream.of(
                    "allow",
                    binding.entry().principal().replaceFirst("^User:", ""),
                    SecurityUtils.resourceTypeName(binding.pattern().resourceType()),
                    binding.pattern().name() + (binding.pattern().patternType() == PatternType.PREFIXED ? "*" : ""),
                    SecurityUtils.operationName(binding.entry().operation()))
                .collect(Collectors.joining(" ")))
            .sorted()
            .forEach(System.out::println);
    }

    /** A broker reads its certificates again when it is told where they are, even if that is where they were. */
    private void reloadCertificates(String[] listeners) throws Exception {
        ConfigResource broker = new ConfigResource(
            ConfigResource.Type.BROKER, admin.describeCluster().nodes().get().iterator().next().idString());
        Map<String, String> known = admin.describeConfigs(List.of(broker)).all().get().get(broker).entries().stream()
            .filter(entry -> entry.value() != null)
            .collect(Collectors.toMap(ConfigEntry::name, ConfigEntry::value));
        List<AlterConfigOp> changes = new ArrayList<>();
        for (String listener : listeners) {
            for (String store : List.of("keystore", "truststore")) {
                changes.add(new AlterConfigOp(
                    new ConfigEntry("listener.name." + listener + ".ssl." + store + ".location",
                        known.get("ssl." + store + ".location")),
                    AlterConfigOp.OpType.SET));
            }
        }
        admin.incrementalAlterConfigs(Map.of(broker, changes)).all().get();
    }

    private interface Condition {
        boolean holds() throws Exception;
    }

    /** What the controller has written, the broker learns a moment later. */
    private static void waitUntil(Condition condition) throws Exception {
        long deadline = System.currentTimeMillis() + PROPAGATION_MS;
        while (!condition.holds()) {
            if (System.currentTimeMillis() > deadline) {
                throw new IllegalStateException("the broker did not take over the change in time");
            }
            Thread.sleep(20);
        }
    }
}
