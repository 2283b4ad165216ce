// LangChain4j, unchanged, against the embedded model, by both APIs that it speaks.
package moesaic;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import dev.langchain4j.agent.tool.P;
import dev.langchain4j.agent.tool.Tool;
import dev.langchain4j.exception.InvalidRequestException;
import dev.langchain4j.exception.ModelNotFoundException;
import dev.langchain4j.memory.chat.MessageWindowChatMemory;
import dev.langchain4j.model.chat.Capability;
import dev.langchain4j.model.chat.ChatModel;
import dev.langchain4j.model.chat.StreamingChatModel;
import dev.langchain4j.model.openai.OpenAiChatModel;
import dev.langchain4j.model.openai.OpenAiResponsesChatModel;
import dev.langchain4j.model.openai.OpenAiResponsesStreamingChatModel;
import dev.langchain4j.model.openai.OpenAiStreamingChatModel;
import dev.langchain4j.model.output.FinishReason;
import dev.langchain4j.service.AiServices;
import dev.langchain4j.service.Result;
import dev.langchain4j.service.SystemMessage;
import dev.langchain4j.service.TokenStream;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.TimeUnit;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.EnumSource;

class LangChain4jTest {
    private static final String URL = System.getenv("MOESAIC_DEMO_URL") + "/v1";
    private static final String CAPITAL = "What is the capital of France?";
    private static final String WEATHER = "What is the weather in Paris?";

    enum Api { CHAT, RESPONSES }

    interface Assistant {
        Result<String> ask(String question);

        TokenStream stream(String question);

        @SystemMessage("Extract the event information.")
        Event extract(String text);
    }

    record Event(String name, String date, List<String> participants) {}

    static class Weather {
        final List<String> asked = new ArrayList<>();

        @Tool(name = "get_weather", value = "Get current weather for a location.")
        String weather(@P(name = "location", value = "") String location) {
            asked.add(location);
            return "{\"temperature\": 17, \"condition\": \"sunny\"}";
        }
    }

    private static ChatModel model(Api api, String name, double temperature) {
        return switch (api) {
            case CHAT -> OpenAiChatModel.builder().baseUrl(URL).apiKey("none").modelName(name).maxRetries(0)
                    .temperature(temperature).strictJsonSchema(true)
                    .supportedCapabilities(Capability.RESPONSE_FORMAT_JSON_SCHEMA).build();
            case RESPONSES -> OpenAiResponsesChatModel.builder().baseUrl(URL).apiKey("none").modelName(name)
                    .temperature(temperature).strictJsonSchema(true).build();
        };
    }

    private static ChatModel model(Api api) {
        return model(api, "moesaic-demo", 0);
    }

    private static StreamingChatModel streaming(Api api) {
        return switch (api) {
            case CHAT -> OpenAiStreamingChatModel.builder().baseUrl(URL).apiKey("none").modelName("moesaic-demo")
                    .temperature(0.0).build();
            case RESPONSES -> OpenAiResponsesStreamingChatModel.builder().baseUrl(URL).apiKey("none")
                    .modelName("moesaic-demo").temperature(0.0).build();
        };
    }

    private static AiServices<Assistant> assistant(Api api) {
        return AiServices.builder(Assistant.class).chatModel(model(api)).streamingChatModel(streaming(api));
    }

    private static void assertContains(String text, String... parts) {
        for (String part : parts) assertTrue(text.contains(part), () -> "no " + part + " in: " + text);
    }

    /** A stream's pieces, to its end. */
    private static List<String> pieces(TokenStream stream) throws Exception {
        var pieces = new ArrayList<String>();
        var whole = new CompletableFuture<String>();
        stream.onPartialResponse(pieces::add).onError(whole::completeExceptionally)
                .onCompleteResponse(response -> whole.complete(response.aiMessage().text())).start();
        assertEquals(whole.get(60, TimeUnit.SECONDS), String.join("", pieces));
        return pieces;
    }

    @ParameterizedTest
    @EnumSource
    void answer(Api api) {
        var answer = assistant(api).build().ask(CAPITAL);
        assertContains(answer.content(), "Paris");
        assertEquals(FinishReason.STOP, answer.finishReason());
        var usage = answer.tokenUsage();
        assertTrue(usage.inputTokenCount() > 0 && usage.outputTokenCount() > 0);
        assertEquals(usage.totalTokenCount(), usage.inputTokenCount() + usage.outputTokenCount());
    }

    @ParameterizedTest
    @EnumSource
    void stream(Api api) throws Exception {
        var assistant = assistant(api).build();
        var pieces = pieces(assistant.stream("Tell me a story about a fox."));
        assertTrue(pieces.size() > 5, pieces.size() + " pieces");
        assertContains(String.join("", pieces), "fox");
        assertEquals(assistant.ask("Tell me a story about a fox.").content(), String.join("", pieces));
    }

    @ParameterizedTest
    @EnumSource
    void tools(Api api) throws Exception {
        var weather = new Weather();
        var assistant = assistant(api).tools(weather).build();
        var answer = assistant.ask(WEATHER);
        assertEquals(List.of("get_weather"), answer.toolExecutions().stream().map(call -> call.request().name()).toList());
        assertContains(answer.content(), "Paris", "17", "sunny");
        assertContains(String.join("", pieces(assistant.stream(WEATHER))), "Paris", "17", "sunny");
        assertEquals(List.of("Paris", "Paris"), weather.asked);
    }

    @ParameterizedTest
    @EnumSource
    void structuredOutput(Api api) {
        var event = assistant(api).build().extract("Alice and Bob are going to a science fair on Friday.");
        assertEquals(new Event("science fair", "Friday", List.of("Alice", "Bob")), event);
    }

    @ParameterizedTest
    @EnumSource
    void memory(Api api) {
        var assistant = assistant(api).chatMemory(MessageWindowChatMemory.withMaxMessages(10)).build();
        assistant.ask("My name is Anna.");
        assertContains(assistant.ask("What is my name?").content(), "Anna");
        assertFalse(assistant(api).build().ask("What is my name?").content().contains("Anna"));
    }

    @Test
    void thoughts() {
        var model = OpenAiChatModel.builder().baseUrl(URL).apiKey("none").modelName("moesaic-demo").temperature(0.0)
                .reasoningEffort("low").returnThinking(true).build();
        var message = model.chat(dev.langchain4j.data.message.UserMessage.from("What is 47 + 58?")).aiMessage();
        assertContains(message.thinking(), "7 + 8 = 15");
        assertContains(message.text(), "105");
    }

    @ParameterizedTest
    @EnumSource
    void errors(Api api) {
        var missing = assertThrows(ModelNotFoundException.class, () -> model(api, "gpt-4o", 0).chat(CAPITAL));
        assertContains(missing.getMessage(), "gpt-4o", "model_not_found");
        var hot = assertThrows(InvalidRequestException.class, () -> model(api, "moesaic-demo", 3).chat(CAPITAL));
        assertContains(hot.getMessage(), "temperature");
    }
}
