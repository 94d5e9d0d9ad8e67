// Executes a template as Ollama does: with the system messages joined, and messages of one role in a row joined.
//
// Reads {"template": …, "messages": […]} and prints the text. See Execute and collate in template/template.go of Ollama.
package main

import (
	"encoding/json"
	"os"
	"strings"
	"text/template"
)

// Message is a message of the conversation.
type Message struct {
	Role    string `json:"role"`
	Content string `json:"content"`
}

func main() {
	var input struct {
		Template string    `json:"template"`
		Messages []Message `json:"messages"`
	}
	if err := json.NewDecoder(os.Stdin).Decode(&input); err != nil {
		panic(err)
	}
	var system []string
	var messages []*Message
	for index := range input.Messages {
		message := &input.Messages[index]
		if message.Role == "system" {
			system = append(system, message.Content)
		}
		if last := len(messages) - 1; last >= 0 && messages[last].Role == message.Role {
			messages[last].Content += "\n\n" + message.Content
		} else {
			messages = append(messages, message)
		}
	}
	parsed := template.Must(template.New("").Option("missingkey=zero").Parse(input.Template))
	values := map[string]any{"System": strings.Join(system, "\n\n"), "Messages": messages, "Response": ""}
	if err := parsed.Execute(os.Stdout, values); err != nil {
		panic(err)
	}
}
