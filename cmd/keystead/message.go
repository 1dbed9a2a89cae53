package main

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

// answerMessage answers with an API message: as a document with --json (docs/spec/cli.md).
func (a *app) answerMessage(m proto.Message, text func(w io.Writer)) error {
	return a.answer(document(m), text)
}

// document is an API message as --json gives it: every field under its name in the
// .proto file, set or not; numbers as numbers; digests as sha256:HEX, other bytes in hex.
// What is not set is 0, "", [] or null.
func document(m proto.Message) messageJSON { return messageJSON{m} }

type messageJSON struct{ message proto.Message }

// MarshalJSON implements json.Marshaler.
func (m messageJSON) MarshalJSON() ([]byte, error) {
	return membersOf(m.message.ProtoReflect()).MarshalJSON()
}

// member is a field of an object in JSON.
type member struct {
	name  string
	value any
}

// members are an object in JSON, in the order in which they stand.
type members []member

// MarshalJSON implements json.Marshaler.
func (m members) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	b.WriteByte('{')
	for i, f := range m {
		if i > 0 {
			b.WriteByte(',')
		}
		for j, part := range []any{f.name, f.value} {
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

func membersOf(m protoreflect.Message) members {
	out := members{}
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
			out = append(out, member{string(f.Name()), list})
		case f.Message() != nil && !m.Has(f):
			out = append(out, member{string(f.Name()), nil})
		default:
			out = append(out, member{string(f.Name()), valueOf(f, v)})
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
		return bytesText(v.Bytes())
	}
	return v.Interface()
}

// bytesText is how --json gives bytes: 32 of them are a digest, as everywhere else.
func bytesText(b []byte) string {
	if len(b) == len(keystead.Digest{}) {
		return keystead.Digest(b).String()
	}
	return hex.EncodeToString(b)
}

// content is a value of the ledger: its bytes, and the text that they are if they are one.
func content(b []byte) members {
	out := members{{"value", hex.EncodeToString(b)}}
	if utf8.Valid(b) {
		out = append(out, member{"text", string(b)})
	}
	return out
}

// line writes a document on one line, where several follow one another.
func (a *app) line(v any) error {
	a.answers(v)
	e := json.NewEncoder(escaping{a.stdout})
	e.SetEscapeHTML(false)
	return e.Encode(v)
}
