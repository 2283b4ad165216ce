// What the tests share: the client, a question, the weather tool and two assertions.
package clients

import (
	"context"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
	"github.com/openai/openai-go/v3/shared"
)

const model = "moesaic-demo"

func client(t *testing.T) openai.Client {
	address := os.Getenv("MOESAIC_DEMO_URL")
	if address == "" {
		t.Fatal("MOESAIC_DEMO_URL must be the address of `moesaic --port 0`, without /v1")
	}
	return openai.NewClient(option.WithBaseURL(address+"/v1"), option.WithAPIKey("none"), option.WithMaxRetries(0))
}

func ask(content string) openai.ChatCompletionNewParams {
	return openai.ChatCompletionNewParams{
		Model:       model,
		Messages:    []openai.ChatCompletionMessageParamUnion{openai.UserMessage(content)},
		Temperature: openai.Float(0),
	}
}

func complete(t *testing.T, request openai.ChatCompletionNewParams) *openai.ChatCompletion {
	t.Helper()
	api := client(t)
	answer, err := api.Chat.Completions.New(context.Background(), request)
	if err != nil {
		t.Fatal(err)
	}
	return answer
}

func contains(t *testing.T, text string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(text, part) {
			t.Errorf("no %q in %q", part, text)
		}
	}
}

func equal(t *testing.T, found, expected any) {
	t.Helper()
	if !reflect.DeepEqual(found, expected) {
		t.Errorf("%#v instead of %#v", found, expected)
	}
}

func weather() []openai.ChatCompletionToolUnionParam {
	return []openai.ChatCompletionToolUnionParam{openai.ChatCompletionFunctionTool(shared.FunctionDefinitionParam{
		Name:        "get_weather",
		Description: openai.String("Get current weather for a location."),
		Parameters: shared.FunctionParameters{
			"type":       "object",
			"properties": map[string]any{"location": map[string]any{"type": "string"}},
			"required":   []string{"location"},
		},
	})}
}
