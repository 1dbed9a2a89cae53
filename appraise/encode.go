package appraise

import (
	"bytes"
	"encoding"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"reflect"
	"strconv"
	"strings"
	"sync"

	"github.com/keystead/keystead"
)

// encodeVerdict writes what encoding/json writes of a verdict's body where it does not
// escape HTML, in a third of the time: verdicts are made at every renewal.
var encodeVerdict = encoderOf(reflect.TypeFor[verdictBody]())

// scratches are buffers that verdicts are written into before they have their size.
var scratches = sync.Pool{New: func() any { return new([]byte) }}

// An encoder appends a value's JSON.
type encoder func(b []byte, v reflect.Value) ([]byte, error)

// encoderOf makes the encoder of a type. What it has no words for is left to encoding/json.
func encoderOf(t reflect.Type) encoder {
	switch {
	case t == reflect.TypeFor[keystead.Digest]():
		return encodeDigest
	case t.Implements(reflect.TypeFor[json.Marshaler]()):
		return encodeMarshaler
	case t.Implements(reflect.TypeFor[encoding.TextMarshaler]()):
		return encodeText
	}
	switch t.Kind() {
	case reflect.Bool:
		return func(b []byte, v reflect.Value) ([]byte, error) { return strconv.AppendBool(b, v.Bool()), nil }
	case reflect.Int, reflect.Int64:
		return func(b []byte, v reflect.Value) ([]byte, error) { return strconv.AppendInt(b, v.Int(), 10), nil }
	case reflect.String:
		return encodeString
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Uint8 {
			return encodeBytes
		}
		return listEncoder(encoderOf(t.Elem()))
	case reflect.Struct:
		return structEncoder(t)
	}
	return encodeAny
}

// encodeAny leaves the value to encoding/json.
func encodeAny(b []byte, v reflect.Value) ([]byte, error) {
	var buf bytes.Buffer
	e := json.NewEncoder(&buf)
	e.SetEscapeHTML(false) // findings quote CEL, which is full of < and &&
	err := e.Encode(v.Interface())
	return append(b, bytes.TrimSuffix(buf.Bytes(), []byte("\n"))...), err
}

// encodeMarshaler has the type write itself: as those here do, without white space.
func encodeMarshaler(b []byte, v reflect.Value) ([]byte, error) {
	raw, err := v.Interface().(json.Marshaler).MarshalJSON()
	return append(b, raw...), err
}

func encodeText(b []byte, v reflect.Value) ([]byte, error) {
	text, err := v.Interface().(encoding.TextMarshaler).MarshalText()
	if err != nil {
		return b, err
	}
	return encodeString(b, reflect.ValueOf(string(text)))
}

func encodeBytes(b []byte, v reflect.Value) ([]byte, error) {
	if v.IsNil() {
		return append(b, "null"...), nil
	}
	return append(base64.StdEncoding.AppendEncode(append(b, '"'), v.Bytes()), '"'), nil
}

func encodeDigest(b []byte, v reflect.Value) ([]byte, error) {
	d := v.Interface().(keystead.Digest)
	return append(hex.AppendEncode(append(b, `"sha256:`...), d[:]), '"'), nil
}

func encodeString(b []byte, v reflect.Value) ([]byte, error) {
	s := v.String()
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			return encodeAny(b, v)
		}
	}
	return append(append(append(b, '"'), s...), '"'), nil
}

func listEncoder(element encoder) encoder {
	return func(b []byte, v reflect.Value) (_ []byte, err error) {
		if v.IsNil() {
			return append(b, "null"...), nil
		}
		b = append(b, '[')
		for i := range v.Len() {
			if i > 0 {
				b = append(b, ',')
			}
			if b, err = element(b, v.Index(i)); err != nil {
				return b, err
			}
		}
		return append(b, ']'), nil
	}
}

// fieldEncoder writes one field of a struct, unless the field's tag has it left out.
type fieldEncoder struct {
	index  int
	name   string // with quotes and colon
	omits  func(reflect.Value) bool
	encode encoder
}

func structEncoder(t reflect.Type) encoder {
	var fields []fieldEncoder
	for f := range t.Fields() {
		name, option, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "" || name == "-" || !f.IsExported() {
			return encodeAny
		}
		one := fieldEncoder{index: f.Index[0], name: `"` + name + `":`, encode: encoderOf(f.Type)}
		switch option {
		case "":
		case "omitempty":
			one.omits = func(v reflect.Value) bool { return v.IsZero() || v.Kind() == reflect.Slice && v.Len() == 0 }
		case "omitzero":
			one.omits = isZero
		default:
			return encodeAny
		}
		fields = append(fields, one)
	}
	return func(b []byte, v reflect.Value) (_ []byte, err error) {
		b = append(b, '{')
		first := true
		for i := range fields {
			f := &fields[i]
			value := v.Field(f.index)
			if f.omits != nil && f.omits(value) {
				continue
			}
			if !first {
				b = append(b, ',')
			}
			first = false
			if b, err = f.encode(append(b, f.name...), value); err != nil {
				return b, err
			}
		}
		return append(b, '}'), nil
	}
}

// isZero asks the type, where it has an answer of its own.
func isZero(v reflect.Value) bool {
	if z, ok := v.Interface().(interface{ IsZero() bool }); ok {
		return z.IsZero()
	}
	return v.IsZero()
}
