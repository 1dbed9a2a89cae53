package appraise

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"reflect"
	"testing"
	"time"
)

// TestEncodeVerdict: byte for byte what encoding/json writes, whatever the fields hold.
func TestEncodeVerdict(t *testing.T) { encodes[verdictBody](t, encodeVerdict) }

// TestEncodeKey: likewise.
func TestEncodeKey(t *testing.T) { encodes[keyFile](t, encodeKey) }

func encodes[T any](t *testing.T, encode encoder) {
	t.Helper()
	r := rand.New(rand.NewPCG(1, 2))
	for n := range 500 {
		var body T
		if n > 0 { // the first is the zero one
			fill(r, reflect.ValueOf(&body).Elem())
		}
		var want bytes.Buffer
		e := json.NewEncoder(&want)
		e.SetEscapeHTML(false)
		if err := e.Encode(body); err != nil {
			t.Fatal(err)
		}
		got, err := encode(nil, reflect.ValueOf(&body).Elem())
		if err != nil || string(got)+"\n" != want.String() {
			t.Fatalf("error %v\nwant %s\ngot  %s", err, want.Bytes(), got)
		}
	}
}

// texts are strings of each kind that JSON writes in its own way.
var texts = []string{"", "plain", `a "quoted" \ one`, "a < b && c > d", "tab\tline\nbell\a", "naïve …", "\u2028\u2029", "bad \xff utf-8", "\x7f"}

// fill sets all that a value holds to something, or leaves it at zero.
func fill(r *rand.Rand, v reflect.Value) {
	if r.IntN(6) == 0 {
		return
	}
	if v.Type() == reflect.TypeFor[time.Time]() {
		v.Set(reflect.ValueOf(time.Unix(r.Int64N(1<<33), r.Int64N(1e9)).UTC()))
		return
	}
	switch v.Kind() {
	case reflect.Bool:
		v.SetBool(r.IntN(2) == 0)
	case reflect.Int, reflect.Int64:
		v.SetInt(r.Int64() - r.Int64())
	case reflect.Uint8:
		v.SetUint(r.Uint64N(256))
	case reflect.String:
		v.SetString(texts[r.IntN(len(texts))])
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), r.IntN(4), 4))
		for i := range v.Len() {
			fill(r, v.Index(i))
		}
	case reflect.Array:
		for i := range v.Len() {
			fill(r, v.Index(i))
		}
	case reflect.Struct:
		for i := range v.NumField() {
			fill(r, v.Field(i))
		}
	default:
		panic("a verdict of a kind that this test does not fill: " + v.Type().String())
	}
}
