package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/keystead/keystead/internal/cli"
	"github.com/keystead/keystead/internal/golden"
)

const (
	shapesEnv  = "KEYSTEAD_TEST_SHAPES" // where commands of scripts say what they answered
	answerFile = "testdata/answers.golden"
)

// unanswered are the commands that scripts run for no answer in JSON, each with the reason.
var unanswered = map[string]string{
	"keystead collateral fetch": "it asks AMD and Intel; TestCollateralCommands runs it",
	"keystead collateral show":  "it shows what the vendors sent; TestCollateralCommands runs it",
	"keystead node run":         "it answers nothing while it runs; --example-config is one text",
	"keystead run":              "it answers nothing: its output is the program's",
	"keystead up":               "it answers nothing: it runs until it is interrupted",
}

// recorded is main, which also notes the fields of what the command answers.
func recorded() {
	a := newApp(os.Stdout, os.Stderr)
	if dir := os.Getenv(shapesEnv); dir != "" {
		a.Told = func(command string, answer any) { note(dir, command, answer) }
	}
	os.Exit(a.Run(a.root(), os.Args[1:]))
}

// note adds an answer's fields to a file of this process.
func note(dir, command string, answer any) {
	found := map[string]bool{}
	if _, refused := answer.(map[string]cli.Reported); refused {
		command = "any that fails"
	}
	fieldsIn(reflect.ValueOf(&answer).Elem(), "", found)
	var text strings.Builder
	for _, f := range slices.Sorted(maps.Keys(found)) {
		fmt.Fprintf(&text, "%s: %s\n", command, f)
	}
	f, err := os.OpenFile(filepath.Join(dir, fmt.Sprint(os.Getpid())), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	cli.Must(err)
	_, err = f.WriteString(text.String())
	cli.Must(err)
	cli.Must(f.Close())
}

// fieldsIn finds the fields of an answer as --json gives it, by its type: that a value is not set
// or a list empty this time changes nothing. A path's last word is the kind of JSON; "?" is
// behind a field that is left out when it is empty.
func fieldsIn(v reflect.Value, path string, found map[string]bool) {
	switch known := v.Interface().(type) {
	case cli.MessageJSON:
		messageFields(known.Message.ProtoReflect().Descriptor(), path, found)
		return
	case cli.Members:
		for _, m := range known {
			fieldsIn(reflect.ValueOf(&m.Value).Elem(), path+"."+m.Name, found)
		}
		return
	case json.Marshaler, interface{ MarshalText() ([]byte, error) }:
		text, err := json.Marshal(known)
		var plain any
		if err == nil {
			err = json.Unmarshal(text, &plain)
		}
		if err != nil { // such as of a digest that is not set
			plain = ""
		}
		fieldsIn(reflect.ValueOf(&plain).Elem(), path, found)
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			f := v.Type().Field(i)
			name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
			switch {
			case name == "-" || !f.IsExported() && !f.Anonymous:
			case f.Anonymous && name == "":
				fieldsIn(exported(v.Field(i)), path, found)
			default:
				if name == "" {
					name = f.Name
				}
				if strings.Contains(options, "omitempty") || strings.Contains(options, "omitzero") {
					name += "?"
				}
				fieldsIn(v.Field(i), path+"."+name, found)
			}
		}
	case reflect.Pointer:
		if v.IsNil() {
			v = reflect.New(v.Type().Elem())
		}
		fieldsIn(v.Elem(), path, found)
	case reflect.Interface:
		if v.IsNil() {
			found[path+" null"] = true
		} else {
			fieldsIn(v.Elem(), path, found)
		}
	case reflect.Slice, reflect.Array:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			found[path+" string"] = true
			return
		}
		if v.Len() == 0 && !slices.Contains([]reflect.Type{reflect.TypeFor[cli.Members](), reflect.TypeFor[any]()}, v.Type().Elem()) {
			fieldsIn(reflect.New(v.Type().Elem()).Elem(), path+"[]", found)
		}
		for i := range v.Len() {
			fieldsIn(v.Index(i), path+"[]", found)
		}
	case reflect.Map:
		for _, k := range v.MapKeys() {
			fieldsIn(v.MapIndex(k), fmt.Sprintf("%s.%s", path, k), found)
		}
	case reflect.Bool:
		found[path+" boolean"] = true
	case reflect.String:
		found[path+" string"] = true
	default:
		found[path+" number"] = true
	}
}

// exported makes the fields of an embedded struct readable.
func exported(v reflect.Value) reflect.Value {
	c := reflect.New(v.Type()).Elem()
	if v.CanInterface() {
		c.Set(v)
	}
	return c
}

func messageFields(m protoreflect.MessageDescriptor, path string, found map[string]bool) {
	for i := range m.Fields().Len() {
		f := m.Fields().Get(i)
		below := path + "." + string(f.Name())
		if f.IsList() {
			below += "[]"
		}
		if f.ContainingOneof() != nil {
			below += "?"
		}
		switch f.Kind() {
		case protoreflect.MessageKind:
			messageFields(f.Message(), below, found)
		case protoreflect.BoolKind:
			found[below+" boolean"] = true
		case protoreflect.StringKind, protoreflect.BytesKind, protoreflect.EnumKind:
			found[below+" string"] = true
		default:
			found[below+" number"] = true
		}
	}
}

// checkAnswers holds what commands answered in scripts to the golden file: each field, and when
// all scripts ran that each is there still.
func checkAnswers(t *testing.T, dir string, began int) {
	scripts, err := filepath.Glob("testdata/script/*.txtar")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		text, err := os.ReadFile(filepath.Join(dir, f.Name()))
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")...)
	}
	switch {
	case t.Failed(): // a script that ended early leaves answers out
	case began == len(scripts):
		golden.Check(t, answerFile, *update, got)
	default:
		for _, d := range golden.Differences(golden.Read(t, answerFile), got) {
			if strings.HasPrefix(d, "is new") {
				t.Errorf("%s: %s", answerFile, d)
			}
		}
	}
}

// TestEveryAnswerIsHeld demands that each command is in the golden file, or that it says why not.
func TestEveryAnswerIsHeld(t *testing.T) {
	held := map[string]bool{}
	for _, line := range golden.Read(t, answerFile) {
		command, _, _ := strings.Cut(line, ":")
		held[command] = true
	}
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		switch path := c.CommandPath(); {
		case c.HasSubCommands():
		case held[path] == (unanswered[path] != ""):
			t.Errorf("%s: is in %s: %v; reason not to be there: %q", path, answerFile, held[path], unanswered[path])
		}
		for _, verb := range c.Commands() {
			walk(verb)
		}
	}
	walk(newApp(nil, nil).root())
}
