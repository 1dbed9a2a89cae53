package cli

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"io"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/keystead/keystead"
)

// AnswerMessage answers with an API message: as a document with --json (docs/spec/cli.md).
func (a *App) AnswerMessage(m proto.Message, text func(w io.Writer)) error {
	return a.Answer(Document(m), text)
}

// Document is an API message as --json gives it: every field under its name in the
// .proto file, set or not; numbers as numbers; digests as sha256:HEX, other bytes in hex.
// What is not set is 0, "", [] or null.
func Document(m proto.Message) MessageJSON { return MessageJSON{m} }

// MessageJSON is what Document returns.
type MessageJSON struct{ Message proto.Message }

// MarshalJSON implements json.Marshaler.
func (m MessageJSON) MarshalJSON() ([]byte, error) {
	return membersOf(m.Message.ProtoReflect()).MarshalJSON()
}

// Member is a field of an object in JSON.
type Member struct {
	Name  string
	Value any
}

// Members are an object in JSON, in the order in which they stand.
type Members []Member

// MarshalJSON implements json.Marshaler.
func (m Members) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	b.WriteByte('{')
	for i, f := range m {
		if i > 0 {
			b.WriteByte(',')
		}
		for j, part := range []any{f.Name, f.Value} {
			if j == 1 {
				b.WriteByte(':')
			}
			if err := e.Encode(part); err != nil {
				return nil, err
			}
		}
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

func membersOf(m protoreflect.Message) Members {
	out := Members{}
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		f := fields.Get(i)
		switch v := m.Get(f); {
		case f.ContainingOneof() != nil && !m.Has(f):
		case f.IsList():
			list := []any{}
			for j := range v.List().Len() {
				list = append(list, valueOf(f, v.List().Get(j)))
			}
			out = append(out, Member{string(f.Name()), list})
		case f.Message() != nil && !m.Has(f):
			out = append(out, Member{string(f.Name()), nil})
		default:
			out = append(out, Member{string(f.Name()), valueOf(f, v)})
		}
	}
	return out
}

func valueOf(f protoreflect.FieldDescriptor, v protoreflect.Value) any {
	switch f.Kind() {
	case protoreflect.MessageKind:
		return membersOf(v.Message())
	case protoreflect.EnumKind:
		return string(f.Enum().Values().ByNumber(v.Enum()).Name())
	case protoreflect.BytesKind:
		return BytesText(v.Bytes())
	}
	return v.Interface()
}

// BytesText is how --json gives bytes: 32 of them are a digest, as everywhere else.
func BytesText(b []byte) string {
	if len(b) == len(keystead.Digest{}) {
		return keystead.Digest(b).String()
	}
	return hex.EncodeToString(b)
}

// Content is a value of the ledger: its bytes, and the text that they are if they are one.
func Content(b []byte) Members {
	out := Members{{"value", hex.EncodeToString(b)}}
	if utf8.Valid(b) {
		out = append(out, Member{"text", string(b)})
	}
	return out
}

// Line writes a document on one line, where several follow one another.
func (a *App) Line(v any) error {
	a.answers(v)
	e := json.NewEncoder(escaping{a.Stdout})
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// Lines notes that the answer is lines, as they come: an error later is no answer of its own, even
// if there were none.
func (a *App) Lines() { a.answered = true }
