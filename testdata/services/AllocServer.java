import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.io.InputStream;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.URL;
import java.util.HashMap;
import java.util.Map;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;

/**
 * A small HTTP service that allocates: {@code java AllocServer.java [PORT [REQUESTS]]}.
 *
 * Each answer is built from many small objects, and a part of them goes into a cache that is bounded, so that they die
 * old: young and full collections both have something to do. With REQUESTS it asks itself that many times and ends;
 * without, it serves until it is killed. Port 0 takes a free one. The port is its first line of output.
 * {@code -Dcached=N}: answers that the cache holds, 20 KiB each.
 */
public final class AllocServer {
    private static final int CACHED = Integer.getInteger("cached", 1024);
    private static final Map<Integer, String[]> CACHE = new HashMap<>();

    private AllocServer() {}

    private static String[] buildAnswer(int seed) {
        String[] lines = new String[256];
        for (int i = 0; i < lines.length; i++) {
            lines[i] = "line " + i + " of " + seed + ": " + Integer.toHexString(seed * 31 + i);
        }
        return lines;
    }

    private static synchronized void remember(int seed, String[] lines) {
        CACHE.put(seed % CACHED, lines);
    }

    private static void answer(HttpExchange exchange) throws IOException {
        String query = exchange.getRequestURI().getQuery();
        int seed = query == null ? 0 : query.hashCode() & 0x7fffffff;
        String[] lines = buildAnswer(seed);
        remember(seed, lines);
        byte[] body = String.join("\n", lines).getBytes();
        exchange.sendResponseHeaders(200, body.length);
        exchange.getResponseBody().write(body);
        exchange.close();
    }

    private static void askItself(int port, int requests) throws IOException {
        for (int i = 0; i < requests; i++) {
            try (InputStream in = new URL("http://127.0.0.1:" + port + "/?" + i).openStream()) {
                in.readAllBytes();
            }
        }
    }

    public static void main(String[] args) throws IOException {
        // Without it an answer in two packets waits 40 ms for a delayed acknowledgement.
        System.setProperty("sun.net.httpserver.nodelay", "true");
        int port = args.length > 0 ? Integer.parseInt(args[0]) : 0;
        HttpServer server = HttpServer.create(new InetSocketAddress(InetAddress.getLoopbackAddress(), port), 64);
        ExecutorService workers = Executors.newFixedThreadPool(4);
        server.setExecutor(workers);
        server.createContext("/", AllocServer::answer);
        server.start();
        System.out.println("{\"port\":" + server.getAddress().getPort() + "}");
        if (args.length > 1) {
            askItself(server.getAddress().getPort(), Integer.parseInt(args[1]));
            System.gc();
            server.stop(0);
            workers.shutdown();
        }
    }
}
