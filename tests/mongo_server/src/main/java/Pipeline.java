import de.bwaldvogel.mongo.bson.Document;
import java.util.ArrayList;
import java.util.Collection;
import java.util.HashMap;
import java.util.List;
import java.util.Map;

/**
 * Aggregation pipelines, said in what mongo-java-server knows: Omniboard's metric columns use {@code $let}, which it
 * lacks, and {@code $addFields} on a field of a subdocument, which it takes for a field with a dot in its name.
 */
final class Pipeline {
    private Pipeline() {}

    /** Says the same without {@code $let} and without dotted names in {@code $addFields}. */
    static Object simplified(Object pipeline) {
        return simplified(pipeline, Map.of());
    }

    private static Object simplified(Object part, Map<String, Object> named) {
        if (part instanceof String text) {
            return named.getOrDefault(text, text);
        }
        if (part instanceof Collection<?> items) {
            List<Object> replaced = new ArrayList<>();
            items.forEach(item -> replaced.add(simplified(item, named)));
            return replaced;
        }
        if (!(part instanceof Document document)) {
            return part;
        }
        if (document.get("$let") instanceof Document let) {
            Map<String, Object> known = new HashMap<>(named);
            ((Document) let.get("vars")).forEach((name, value) -> known.put("$$" + name, simplified(value, named)));
            return simplified(let.get("in"), known);
        }
        Document replaced = new Document();
        document.forEach((key, value) -> replaced.put(key, simplified(value, named)));
        if (replaced.get("$addFields") instanceof Document fields) {
            replaced.put("$addFields", nested(fields));
        }
        return replaced;
    }

    /** Turns {@code "a.b": value} into {@code "a": {$mergeObjects: ["$a", {"b": value}]}}. */
    private static Document nested(Document fields) {
        Document replaced = new Document();
        fields.forEach((name, value) -> {
            int dot = name.indexOf('.');
            if (dot < 0) {
                replaced.put(name, value);
                return;
            }
            Document inner = new Document(name.substring(dot + 1), value);
            String outer = name.substring(0, dot);
            replaced.put(outer, new Document("$mergeObjects", List.of("$" + outer, inner)));
        });
        return replaced;
    }
}
