// The official OpenAI SDK for Go, unchanged, against the embedded model.
package clients

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"testing"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/shared"
)

func TestChat(t *testing.T) {
	answer := complete(t, ask("What is the capital of France?"))
	contains(t, answer.Choices[0].Message.Content, "Paris")
	equal(t, answer.Choices[0].FinishReason, "stop")
	equal(t, answer.Usage.TotalTokens, answer.Usage.PromptTokens+answer.Usage.CompletionTokens)
}

func TestStream(t *testing.T) {
	request := ask("Tell me a story about a fox.")
	whole := complete(t, request)
	request.StreamOptions.IncludeUsage = openai.Bool(true)
	api := client(t)
	stream := api.Chat.Completions.NewStreaming(context.Background(), request)
	defer stream.Close()
	var gathered openai.ChatCompletionAccumulator
	pieces, finished := 0, ""
	for stream.Next() {
		chunk := stream.Current()
		if !gathered.AddChunk(chunk) {
			t.Fatalf("does not fit: %s", chunk.RawJSON())
		}
		if len(chunk.Choices) > 0 && chunk.Choices[0].Delta.Content != "" {
			pieces++
		}
		if text, ok := gathered.JustFinishedContent(); ok {
			finished = text
		}
	}
	if err := stream.Err(); err != nil || pieces < 6 {
		t.Fatalf("%d pieces, then %v", pieces, err)
	}
	contains(t, finished, "fox")
	equal(t, finished, whole.Choices[0].Message.Content)
	equal(t, gathered.Choices[0].Message.Content, finished)
	equal(t, gathered.Choices[0].FinishReason, "stop")
	equal(t, gathered.Usage.CompletionTokens, whole.Usage.CompletionTokens)
}

func TestTools(t *testing.T) {
	request := ask("What is the weather in Paris?")
	request.Tools = weather()
	choice := complete(t, request).Choices[0]
	equal(t, choice.FinishReason, "tool_calls")
	call := choice.Message.ToolCalls[0]
	equal(t, call.Function.Name, "get_weather")
	equal(t, call.Function.Arguments, `{"location":"Paris"}`)
	result := openai.ToolMessage(`{"temperature": 17, "condition": "sunny"}`, call.ID)
	request.Messages = append(request.Messages, choice.Message.ToParam(), result)
	contains(t, complete(t, request).Choices[0].Message.Content, "Paris", "17", "sunny")
}

func TestToolsStream(t *testing.T) {
	request := ask("What is the weather in Paris?")
	request.Tools = weather()
	api := client(t)
	stream := api.Chat.Completions.NewStreaming(context.Background(), request)
	defer stream.Close()
	var gathered openai.ChatCompletionAccumulator
	var call openai.FinishedChatCompletionToolCall
	for stream.Next() {
		gathered.AddChunk(stream.Current())
		if finished, ok := gathered.JustFinishedToolCall(); ok {
			call = finished
		}
	}
	if err := stream.Err(); err != nil {
		t.Fatal(err)
	}
	equal(t, []string{call.Name, call.Arguments}, []string{"get_weather", `{"location":"Paris"}`})
	equal(t, call.ID, gathered.Choices[0].Message.ToolCalls[0].ID)
	equal(t, gathered.Choices[0].FinishReason, "tool_calls")
}

type event struct {
	Name, Date   string
	Participants []string
}

func TestStructuredOutput(t *testing.T) {
	text := map[string]any{"type": "string"}
	request := ask("Alice and Bob are going to a science fair on Friday.")
	request.Messages = slices.Insert(request.Messages, 0, openai.SystemMessage("Extract the event information."))
	request.ResponseFormat.OfJSONSchema = &shared.ResponseFormatJSONSchemaParam{
		JSONSchema: shared.ResponseFormatJSONSchemaJSONSchemaParam{Name: "event", Strict: openai.Bool(true), Schema: map[string]any{
			"type":                 "object",
			"properties":           map[string]any{"name": text, "date": text, "participants": map[string]any{"type": "array", "items": text}},
			"required":             []string{"name", "date", "participants"},
			"additionalProperties": false,
		}},
	}
	var found event
	if err := json.Unmarshal([]byte(complete(t, request).Choices[0].Message.Content), &found); err != nil {
		t.Fatal(err)
	}
	equal(t, found, event{"science fair", "Friday", []string{"Alice", "Bob"}})
}

func TestThoughts(t *testing.T) {
	request := ask("What is 47 + 58?")
	request.ReasoningEffort = shared.ReasoningEffortLow
	message := complete(t, request).Choices[0].Message
	contains(t, message.Content, "105")
	contains(t, message.JSON.ExtraFields["reasoning_content"].Raw(), "7 + 8 = 15")
}

func TestModels(t *testing.T) {
	api := client(t)
	names := []string{}
	pages := api.Models.ListAutoPaging(context.Background())
	for pages.Next() {
		names = append(names, pages.Current().ID)
	}
	equal(t, pages.Err(), nil)
	equal(t, names, []string{model})
}

func TestErrors(t *testing.T) {
	empty, hot, unknown := ask(""), ask("Hello!"), ask("Hello!")
	empty.Messages = empty.Messages[:0]
	hot.Temperature = openai.Float(3)
	unknown.Model = "gpt-4o"
	api := client(t)
	for _, each := range []struct {
		request     openai.ChatCompletionNewParams
		status      int
		param, code string
	}{{empty, 400, "messages", ""}, {hot, 400, "temperature", ""}, {unknown, 404, "model", "model_not_found"}} {
		_, whole := api.Chat.Completions.New(context.Background(), each.request)
		stream := api.Chat.Completions.NewStreaming(context.Background(), each.request)
		if stream.Next() {
			t.Errorf("a chunk: %s", stream.Current().RawJSON())
		}
		for _, err := range []error{whole, stream.Err()} {
			var failure *openai.Error
			if !errors.As(err, &failure) {
				t.Fatalf("not an openai.Error: %v", err)
			}
			equal(t, []any{failure.StatusCode, failure.Param, failure.Code}, []any{each.status, each.param, each.code})
			equal(t, failure.Type, "invalid_request_error")
		}
	}
}
