// The official OpenAI SDK for Java, unchanged, against the embedded model; it validates every response by its types.
package moesaic;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertInstanceOf;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.fasterxml.jackson.annotation.JsonClassDescription;
import com.fasterxml.jackson.annotation.JsonTypeName;
import com.openai.client.OpenAIClient;
import com.openai.client.okhttp.OpenAIOkHttpClient;
import com.openai.errors.BadRequestException;
import com.openai.errors.NotFoundException;
import com.openai.errors.OpenAIServiceException;
import com.openai.helpers.ChatCompletionAccumulator;
import com.openai.models.ReasoningEffort;
import com.openai.models.chat.completions.ChatCompletion;
import com.openai.models.chat.completions.ChatCompletionCreateParams;
import com.openai.models.chat.completions.ChatCompletionStreamOptions;
import com.openai.models.chat.completions.ChatCompletionToolMessageParam;
import com.openai.models.models.Model;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Optional;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.Test;

class OpenAITest {
    private static final String ADDRESS = Objects.requireNonNull(
            System.getenv("MOESAIC_DEMO_URL"),
            "MOESAIC_DEMO_URL must be the address of `moesaic --port 0`, without /v1");
    private static final OpenAIClient CLIENT = OpenAIOkHttpClient.builder()
            .baseUrl(ADDRESS + "/v1").apiKey("none").maxRetries(0).responseValidation(true).build();

    @JsonTypeName("get_weather")
    @JsonClassDescription("Get current weather for a location.")
    static class GetWeather {
        public String location;
    }

    static class Event {
        public String name;
        public String date;
        public List<String> participants;
    }

    @AfterAll
    static void close() {
        CLIENT.close();
    }

    private static ChatCompletionCreateParams.Builder ask(String content) {
        return ChatCompletionCreateParams.builder().model("moesaic-demo").temperature(0.0).addUserMessage(content);
    }

    private static ChatCompletion.Choice complete(ChatCompletionCreateParams.Builder request) {
        return CLIENT.chat().completions().create(request.build()).choices().get(0);
    }

    private static String text(ChatCompletionCreateParams.Builder request) {
        return complete(request).message().content().orElseThrow();
    }

    private static void assertContains(String text, String... parts) {
        for (String part : parts) assertTrue(text.contains(part), () -> "no " + part + " in: " + text);
    }

    /** Streams an answer whole; `pieces` counts the chunks with text. */
    private static ChatCompletion gather(ChatCompletionCreateParams.Builder request, int[] pieces) {
        var gathered = ChatCompletionAccumulator.create();
        try (var stream = CLIENT.chat().completions().createStreaming(request.build())) {
            stream.stream().peek(gathered::accumulate).flatMap(chunk -> chunk.choices().stream())
                    .filter(choice -> !choice.delta().content().orElse("").isEmpty()).forEach(choice -> pieces[0]++);
        }
        return gathered.chatCompletion();
    }

    @Test
    void chat() {
        var answer = CLIENT.chat().completions().create(ask("What is the capital of France?").build());
        assertContains(answer.choices().get(0).message().content().orElseThrow(), "Paris");
        assertEquals(ChatCompletion.Choice.FinishReason.STOP, answer.choices().get(0).finishReason());
        var usage = answer.usage().orElseThrow();
        assertEquals(usage.totalTokens(), usage.promptTokens() + usage.completionTokens());
    }

    @Test
    void stream() {
        var request = ask("Tell me a story about a fox.");
        var whole = text(request);
        int[] pieces = {0};
        request.streamOptions(ChatCompletionStreamOptions.builder().includeUsage(true).build());
        var answer = gather(request, pieces);
        assertTrue(pieces[0] > 5, pieces[0] + " pieces");
        assertContains(whole, "fox");
        assertEquals(whole, answer.choices().get(0).message().content().orElseThrow());
        assertEquals(ChatCompletion.Choice.FinishReason.STOP, answer.choices().get(0).finishReason());
        assertTrue(answer.usage().orElseThrow().completionTokens() >= pieces[0]);
    }

    @Test
    void tools() {
        var request = ask("What is the weather in Paris?").addTool(GetWeather.class);
        for (var choice : List.of(complete(request), gather(request, new int[1]).choices().get(0))) {
            assertEquals(ChatCompletion.Choice.FinishReason.TOOL_CALLS, choice.finishReason());
            var call = choice.message().toolCalls().orElseThrow().get(0).asFunction();
            assertEquals("get_weather", call.function().name());
            assertEquals("Paris", call.function().arguments(GetWeather.class).location);
            var result = ChatCompletionToolMessageParam.builder()
                    .toolCallId(call.id()).contentAsJson(Map.of("temperature", 17, "condition", "sunny")).build();
            var next = request.build().toBuilder().addMessage(choice.message()).addMessage(result);
            assertContains(text(next), "Paris", "17", "sunny");
        }
    }

    @Test
    void structuredOutput() {
        var request = ChatCompletionCreateParams.builder().model("moesaic-demo").temperature(0.0)
                .addSystemMessage("Extract the event information.")
                .addUserMessage("Alice and Bob are going to a science fair on Friday.")
                .responseFormat(Event.class).build();
        var event = CLIENT.chat().completions().create(request).choices().get(0).message().content().orElseThrow();
        assertEquals(List.of("science fair", "Friday"), List.of(event.name, event.date));
        assertEquals(List.of("Alice", "Bob"), event.participants);
    }

    @Test
    void thoughts() {
        var message = complete(ask("What is 47 + 58?").reasoningEffort(ReasoningEffort.LOW)).message();
        assertContains(message.content().orElseThrow(), "105");
        var thought = message._additionalProperties().get("reasoning_content");
        assertContains((String) thought.asString().orElseThrow(), "7 + 8 = 15");
    }

    @Test
    void models() {
        assertEquals(List.of("moesaic-demo"), CLIENT.models().list().autoPager().stream().map(Model::id).toList());
    }

    @Test
    void errors() {
        assertError(BadRequestException.class, ask("Hello!").messages(List.of()), 400, "messages", null);
        assertError(BadRequestException.class, ask("Hello!").temperature(3), 400, "temperature", null);
        assertError(NotFoundException.class, ask("Hello!").model("gpt-4o"), 404, "model", "model_not_found");
    }

    private static <E extends OpenAIServiceException> void assertError(
            Class<E> type, ChatCompletionCreateParams.Builder request, int status, String param, String code) {
        var streamed = assertThrows(OpenAIServiceException.class, () -> gather(request, new int[1]));
        for (var error : List.of(streamed, assertThrows(OpenAIServiceException.class, () -> complete(request)))) {
            assertInstanceOf(type, error);
            assertEquals(status, error.statusCode());
            assertEquals(Optional.of(param), error.param());
            assertEquals(Optional.ofNullable(code), error.code());
            assertEquals(Optional.of("invalid_request_error"), error.type());
        }
    }
}
