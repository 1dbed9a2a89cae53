package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf16"

	"github.com/keystead/keystead"
)

// answer writes what was asked for to stdout: v with --json, else what text writes.
func (a *app) answer(v any, text func(w io.Writer)) error {
	a.answers(v)
	if !a.json {
		var b strings.Builder
		text(&b)
		_, err := io.WriteString(escaping{a.stdout}, b.String())
		return err
	}
	e := json.NewEncoder(escaping{a.stdout})
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// answers notes what the answer is.
func (a *app) answers(v any) {
	a.answered = true
	if a.told != nil {
		a.told(a.command, v)
	}
}

// milli is a time as --json gives it: Unix milliseconds.
type milli struct{ time.Time }

// MarshalJSON implements json.Marshaler.
func (m milli) MarshalJSON() ([]byte, error) { return strconv.AppendInt(nil, m.UnixMilli(), 10), nil }

// escaping passes text on with everything escaped that a terminal would obey, but
// newlines. JSON stays what it was: such characters occur in its strings only. Each
// Write is whole characters.
type escaping struct{ w io.Writer }

func (e escaping) Write(text []byte) (int, error) {
	lines := strings.Split(string(text), "\n")
	for i, line := range lines {
		lines[i] = printable(line)
	}
	if _, err := io.WriteString(e.w, strings.Join(lines, "\n")); err != nil {
		return 0, err
	}
	return len(text), nil
}

// failure adds to an error what only the command knows: a stage other than the
// error's own (0 keeps that), and a hint.
type failure struct {
	err   error
	stage keystead.Stage
	hint  string
	first string // a line before what was found, which explains it
}

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

// misuse is for what the caller got wrong: arguments, and files of the caller's own.
func misuse(err error, hint string) error {
	return &failure{err: err, stage: keystead.StageMisuse, hint: hint}
}

// notFound is for what was asked for by name or number and does not exist.
func notFound(err error, hint string) error {
	return &failure{err: err, stage: keystead.StageNotFound, hint: hint}
}

// unavailable is for what may pass later: a network, a program or a machine that is not there.
func unavailable(err error, hint string) error {
	return &failure{err: err, stage: keystead.StageUnavailable, hint: hint}
}

// hinted adds a hint and leaves the stage to the error.
func hinted(err error, hint string) error { return &failure{err: err, hint: hint} }

// interrupted is the exit status after ctrl-C, as shells have it: no refusal, and no stage.
const interrupted keystead.Stage = 128 + 2

// stage returns where an error falls, which is the exit status.
func stage(err error) keystead.Stage {
	var (
		own    *failure
		deny   *keystead.DenyError
		format *keystead.FormatError
	)
	switch {
	case errors.As(err, &own) && own.stage != 0:
		return own.stage
	case errors.As(err, &deny):
		return deny.Stage()
	case errors.As(err, &format):
		return keystead.ReasonMalformed.Stage()
	case errors.Is(err, context.Canceled):
		return interrupted
	case errors.Is(err, context.DeadlineExceeded):
		return keystead.StageUnavailable
	}
	return keystead.StageInternal
}

// reported is the answer that --json gives when there is no other.
type reported struct {
	Exit     keystead.Stage     `json:"exit"`
	Message  string             `json:"message"`
	Hint     string             `json:"hint,omitempty"`
	Findings []keystead.Finding `json:"findings,omitempty"`
}

// report writes an error, every finding on a line of its own, and returns the exit status.
func (a *app) report(err error) int {
	if err == nil {
		return 0
	}
	r := reported{Exit: stage(err), Message: err.Error()}
	if r.Exit == interrupted {
		r.Message = "interrupted"
	}
	lines := []string{r.Message}
	if deny := (*keystead.DenyError)(nil); errors.As(err, &deny) {
		r.Findings = deny.Findings
		context := strings.TrimSuffix(err.Error(), deny.Error())
		lines = lines[:0]
		for _, f := range deny.Findings {
			lines = append(lines, context+f.String())
		}
	}
	own := (*failure)(nil)
	if errors.As(err, &own) && own.first != "" {
		r.Message = own.first
		lines = append([]string{own.first}, lines...)
	}
	for _, line := range lines {
		fmt.Fprintf(a.stderr, "keystead: error: %s\n", printable(line))
	}
	if own != nil && own.hint != "" {
		r.Hint = own.hint
		fmt.Fprintf(a.stderr, "keystead: hint: %s\n", printable(own.hint))
	}
	if a.json && !a.answered {
		_ = a.answer(map[string]reported{"error": r}, nil) // the exit status says it as well
	}
	return int(r.Exit)
}

// printable escapes what a terminal would obey: evidence chooses parts of messages.
func printable(s string) string {
	var b strings.Builder
	for _, r := range s {
		if unicode.IsPrint(r) {
			b.WriteRune(r)
		} else {
			for _, unit := range utf16.AppendRune(nil, r) { // as in JSON
				fmt.Fprintf(&b, `\u%04x`, unit)
			}
		}
	}
	return b.String()
}
