// Package toy is the least system that there can be, for tests of the seams and for who writes a
// system: its parts are built by the same rules as any, and run on a real node, agent and command
// line, in tests alone. Here is its pure core.
//
// Its one service is to greet: the text that is given, and who is greeted.
package toy

import "github.com/keystead/keystead"

// Greet is the procedure by which an agent greets the applications of its machine. Question and
// answer are google.protobuf.StringValue.
const Greet = "/keystead.toy.v1.ToyService/Greet"

// MaxName bounds who is greeted, in bytes.
const MaxName = 64

// Greeting greets a name, or says why it can not (malformed).
func Greeting(host, name string) (string, error) {
	if name == "" || len(name) > MaxName {
		return "", &keystead.FormatError{Format: "greeting", Field: "name", Problem: "is empty, or longer than 64 bytes"}
	}
	return "hello " + name + ", from " + host, nil
}
