package appraise_test

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"github.com/keystead/keystead/appraise"
)

// TestParseKey: the file's form and the bare public area, and nothing like them.
func TestParseKey(t *testing.T) {
	want := onStage(t).key
	text, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	got, err := appraise.ParseKey(text)
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("round trip: %v\nwant %+v\ngot  %+v", err, want, got)
	}
	forger := newForger(t)
	named, err := appraise.ParseKey(forger.public)
	if err != nil || !reflect.DeepEqual(named, forger.accepted(t)) {
		t.Errorf("public area: %v %+v", err, named)
	}
	edit := func(old, new string) []byte { return bytes.Replace(text, []byte(old), []byte(new), 1) }
	for what, tc := range map[string]struct {
		file []byte
		says string
	}{
		"another version":   {edit("keystead-ak/1", "keystead-ak/2"), "format"},
		"unknown member":    {edit(`"name"`, `"more":1,"name"`), "more"},
		"text after":        {append(bytes.Clone(text), "{}"...), "after"},
		"short name":        {edit(`"name":"`, `"name":"00","x":"`), "unknown field"},
		"no time":           {edit(`,"activated":"`+want.Activated.Format("2006-01-02T15:04:05Z")+`"`, ""), "come together"},
		"PEM":               {[]byte("-----BEGIN PUBLIC KEY-----\n"), "PEM"},
		"nothing":           {nil, "tpm2-public"},
		"name that is none": {[]byte(`{"format":"keystead-ak/1","name":"zz"}`), "not the hex form"},
		"an empty name":     {[]byte(`{"format":"keystead-ak/1","name":""}`), "not the hex form"},
	} {
		k, err := appraise.ParseKey(tc.file)
		if err == nil || !strings.Contains(err.Error(), tc.says) || !k.IsZero() {
			t.Errorf("%s: want an error with %q and no key, got %v and %+v", what, tc.says, err, k)
		}
	}
}
