import de.bwaldvogel.mongo.MongoServer;
import de.bwaldvogel.mongo.MongoVersion;
import de.bwaldvogel.mongo.backend.h2.H2Backend;
import de.bwaldvogel.mongo.bson.Document;
import de.bwaldvogel.mongo.wire.message.MongoMessage;
import java.net.InetSocketAddress;
import java.util.List;
import org.h2.mvstore.MVStore;

/**
 * Serves MongoDB's wire protocol on 127.0.0.1 from one H2 file until its standard input ends.
 *
 * <p>Arguments: the file, and the port (0 for a free one). The port is printed as soon as it listens. Whoever started
 * it holds its input open, so that the server ends with its parent, however that one ends.
 */
public final class LocalMongo {
    /** mongo-java-server's own newest version reports wire version 8; pymongo needs 9 and Omniboard takes 13 at most. */
    private static final class Version implements MongoVersion {
        @Override
        public List<Integer> getVersionArray() {
            return List.of(5, 0, 0);
        }

        @Override
        public int getWireVersion() {
            return 13;
        }
    }

    /** H2 writes to its file once a second; here it does before each answer, so that kill -9 loses nothing acknowledged. */
    private static final class Backend extends H2Backend {
        Backend(String file) {
            super(new MVStore.Builder().fileName(file).cacheSize(cacheInMegabytes()).open());
        }

        /** A quarter of the memory, which takes about twice that: H2's own 16 MB would have it read its file anew for each list of runs. */
        private static int cacheInMegabytes() {
            return (int) (Runtime.getRuntime().maxMemory() >> 22);
        }

        @Override
        public Document handleMessage(MongoMessage message) {
            Document command = message.getDocument();
            if (command.containsKey("aggregate")) {
                command.put("pipeline", Pipeline.simplified(command.get("pipeline")));
            }
            try {
                return super.handleMessage(message);
            } finally {
                commit();
            }
        }
    }

    private LocalMongo() {}

    public static void main(String[] arguments) throws Exception {
        MongoServer server = new MongoServer(new Backend(arguments[0]).version(new Version()));
        server.bind(new InetSocketAddress("127.0.0.1", Integer.parseInt(arguments[1])));
        Runtime.getRuntime().addShutdownHook(new Thread(server::shutdownNow));
        System.out.println(server.getLocalAddress().getPort());
        while (System.in.read() >= 0) {
            continue;
        }
        System.exit(0);
    }
}
