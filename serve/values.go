package serve

import (
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/keystead/keystead"
)

// count refuses a message with more fields and items than its procedure takes: each becomes
// an object, of a hundred bytes for two that are sent. Whether it is well formed at
// all, the library says, which gets no further in it than this.
func (r *row) count(message []byte, json bool) error {
	left := r.Values
	if json {
		countJSON(message, &left)
	} else {
		countProto(r.message, message, &left)
	}
	if left < 0 {
		return &keystead.FormatError{Format: "request", Field: string(r.message.Name()), Problem: fmt.Sprintf("has more than %d fields and items", r.Values)}
	}
	return nil
}

// countProto takes the fields of a message off what is left, and those of its parts.
func countProto(m protoreflect.MessageDescriptor, b []byte, left *int) {
	for len(b) > 0 && *left >= 0 {
		number, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return
		}
		b = b[n:]
		*left--
		if n = protowire.ConsumeFieldValue(number, kind, b); n < 0 {
			return
		}
		field := m.Fields().ByNumber(number)
		if kind == protowire.BytesType && field != nil {
			part, _ := protowire.ConsumeBytes(b)
			switch {
			case field.Message() != nil:
				countProto(field.Message(), part, left)
			case field.IsList() && field.Kind() != protoreflect.StringKind && field.Kind() != protoreflect.BytesKind:
				countPacked(field.Kind(), part, left)
			}
		}
		b = b[n:]
	}
}

// countPacked takes the items of a packed list off what is left.
func countPacked(kind protoreflect.Kind, b []byte, left *int) {
	switch kind {
	case protoreflect.Fixed32Kind, protoreflect.Sfixed32Kind, protoreflect.FloatKind:
		*left -= len(b) / 4
	case protoreflect.Fixed64Kind, protoreflect.Sfixed64Kind, protoreflect.DoubleKind:
		*left -= len(b) / 8
	default:
		for _, x := range b {
			if x < 0x80 { // the last byte of a varint
				*left--
			}
		}
	}
}

// countJSON takes what begins a value off what is left.
func countJSON(b []byte, left *int) {
	text := false
	for i := 0; i < len(b) && *left >= 0; i++ {
		switch c := b[i]; {
		case text && c == '\\':
			i++
		case c == '"':
			text = !text
		case !text && (c == ',' || c == '[' || c == '{'):
			*left--
		}
	}
}
