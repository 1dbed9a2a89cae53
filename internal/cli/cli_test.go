package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/keystead/keystead"
)

func TestExitStatus(t *testing.T) {
	signature := keystead.Deny(keystead.Finding{Reason: keystead.ReasonRuleFailed}, keystead.Finding{Reason: keystead.ReasonNonceMismatch, Where: "quote", Want: "a\x1b[2J", Got: "b"})
	for _, tc := range []struct {
		err    error
		exit   int
		stderr string
	}{
		{nil, 0, ""},
		{Misuse(errors.New("no"), "yes"), 1, "keystead: error: no\nkeystead: hint: yes\n"},
		{fmt.Errorf("host.bundle: %w", signature), 2, "keystead: error: host.bundle: rule-failed\nkeystead: error: host.bundle: nonce-mismatch: quote: want a\\u001b[2J, got b\n"},
		{Hinted(keystead.Deny(keystead.Finding{Reason: keystead.ReasonIndexExpired}), "fetch"), 3, "keystead: error: index-expired\nkeystead: hint: fetch\n"},
		{keystead.Deny(keystead.Finding{Reason: keystead.ReasonRuleFailed}), 5, "keystead: error: rule-failed\n"},
		{&keystead.FormatError{Format: "ima", Offset: 7, Field: "pcr", Problem: "is 99"}, 2, "keystead: error: ima: offset 7: pcr: is 99\n"},
		{Misuse(&keystead.FormatError{Format: "policy", Field: "x", Problem: "y"}, ""), 1, "keystead: error: policy: offset 0: x: y\n"},
		{errors.New("disk"), 7, "keystead: error: disk\n"},
	} {
		var stdout, stderr bytes.Buffer
		a := &App{Stdout: &stdout, Stderr: &stderr}
		if got := a.Report(tc.err); got != tc.exit || stderr.String() != tc.stderr || stdout.Len() != 0 {
			t.Errorf("%v: exit %d, want %d; stderr %q, want %q; stdout %q", tc.err, got, tc.exit, stderr.String(), tc.stderr, stdout.String())
		}
		stdout.Reset()
		a.JSON = true
		a.Report(tc.err)
		var doc struct {
			Error Reported `json:"error"`
		}
		if tc.err == nil {
			continue
		}
		if err := json.Unmarshal(stdout.Bytes(), &doc); err != nil || int(doc.Error.Exit) != tc.exit || doc.Error.Message != tc.err.Error() {
			t.Errorf("%v as JSON: %v, %s", tc.err, err, stdout.String())
		}
	}
	var stdout bytes.Buffer
	a := &App{Stdout: &stdout, Stderr: new(bytes.Buffer), JSON: true}
	if err := a.Answer("verdict", nil); err != nil {
		t.Fatal(err)
	}
	a.Report(signature)
	if stdout.String() != "\"verdict\"\n" {
		t.Errorf("an answer is followed by a second document: %s", stdout.String())
	}
}

func TestProgress(t *testing.T) {
	var out bytes.Buffer
	now := time.Unix(1000, 0)
	p := (&App{Stderr: &out}).Progress("Unpacking") // a buffer is no terminal
	p.now = func() time.Time { return now }
	step := func(d time.Duration, done int64) {
		now = now.Add(d)
		p.Set(done, 119)
	}
	step(0, 1)
	step(time.Second, 2)
	step(4*time.Second, 3)
	step(time.Second, 119)
	p.Close()
	if want := "Unpacking: 1 of 119\nUnpacking: 3 of 119\nUnpacking: 119 of 119\n"; out.String() != want {
		t.Errorf("lines %q, want %q", out.String(), want)
	}
	out.Reset()
	p = &Progress{w: &out, now: func() time.Time { return now }, label: "Unpacking", terminal: true}
	step(0, 30)
	step(50*time.Millisecond, 31)
	step(50*time.Millisecond, 200)
	p.Close()
	if want := "\r\x1b[KUnpacking [======                  ]  25%  30 of 119" + strings.Repeat("\r\x1b[KUnpacking ["+strings.Repeat("=", 24)+"] 100%  200 of 119", 2) + "\n"; out.String() != want {
		t.Errorf("bar %q, want %q", out.String(), want)
	}
}

// TestAnswersAreEscaped lets no text of evidence reach a terminal as it is.
func TestAnswersAreEscaped(t *testing.T) {
	var out bytes.Buffer
	a := &App{Stdout: &out, JSON: true}
	hostile := "a\x1b[2J\u009b\u202e\U000e0001b"
	if err := a.Answer(hostile, nil); err != nil {
		t.Fatal(err)
	}
	var back string
	if err := json.Unmarshal(out.Bytes(), &back); err != nil || back != hostile || Printable(strings.TrimSpace(out.String())) != strings.TrimSpace(out.String()) {
		t.Errorf("as JSON: %v, %q, written as %q", err, back, out.String())
	}
	out.Reset()
	a.JSON = false
	if err := a.Answer(nil, func(w io.Writer) { fmt.Fprintln(w, hostile) }); err != nil || out.String() != "a\\u001b[2J\\u009b\\u202e\\udb40\\udc01b\n" {
		t.Errorf("as text: %v, %q", err, out.String())
	}
}

// TestDifference: what is gone and what is new, in the order of the texts, and nothing else.
func TestDifference(t *testing.T) {
	for _, tc := range []struct{ old, new, want string }{
		{"a\nb\nc\n", "a\nb\nc\n", ""},
		{"", "a\n", "+ a"},
		{"a\n", "", "- a"},
		{"a\nb\nc\n", "a\nx\nc\n", "- b|+ x"},
		{"a\nb\nc\nd\n", "b\nc\ne\nd\n", "- a|+ e"},
		{"a\nb\n", "b\na\n", "- a|+ a"},
		{"one", "two", "- one|+ two"},
	} {
		if got := strings.Join(Difference(tc.old, tc.new), "|"); got != tc.want {
			t.Errorf("from %q to %q: %q, want %q", tc.old, tc.new, got, tc.want)
		}
	}
	long := strings.Repeat("x\ny\n", maxDifference)
	if got := Difference("a\n"+long, "b\n"+long); len(got) != 2 {
		t.Errorf("one line of many is other: %d lines", len(got))
	}
	if got := Difference("a\n"+long+"c\n", "b\n"+long+"d\n"); len(got) != 2*(2*maxDifference+2) {
		t.Errorf("beyond the bound: %d lines", len(got))
	}
}
