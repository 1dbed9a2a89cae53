package cli

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

// Answer writes what was asked for to stdout: v with --json, else what text writes.
func (a *App) Answer(v any, text func(w io.Writer)) error {
	a.answers(v)
	if !a.JSON {
		var b strings.Builder
		text(&b)
		_, err := io.WriteString(escaping{a.Stdout}, b.String())
		return err
	}
	e := json.NewEncoder(escaping{a.Stdout})
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// answers notes what the answer is.
func (a *App) answers(v any) {
	a.answered = true
	if a.Told != nil {
		a.Told(a.command, v)
	}
}

// Milli is a time as --json gives it: Unix milliseconds.
type Milli struct{ time.Time }

// MarshalJSON implements json.Marshaler.
func (m Milli) MarshalJSON() ([]byte, error) { return strconv.AppendInt(nil, m.UnixMilli(), 10), nil }

// Escaping returns a writer that passes text on with everything escaped that a terminal would
// obey, but newlines; what goes around Answer goes through it.
func Escaping(w io.Writer) io.Writer { return escaping{w} }

// escaping passes text on with everything escaped that a terminal would obey, but
// newlines. JSON stays what it was: such characters occur in its strings only. Each
// Write is whole characters.
type escaping struct{ w io.Writer }

func (e escaping) Write(text []byte) (int, error) {
	lines := strings.Split(string(text), "\n")
	for i, line := range lines {
		lines[i] = Printable(line)
	}
	if _, err := io.WriteString(e.w, strings.Join(lines, "\n")); err != nil {
		return 0, err
	}
	return len(text), nil
}

// Failure adds to an error what only the command knows: a stage other than the
// error's own (0 keeps that), and a hint.
type Failure struct {
	Err   error
	Stage keystead.Stage
	Hint  string
	First string // a line before what was found, which explains it
}

// Error implements error.
func (f *Failure) Error() string { return f.Err.Error() }

// Unwrap returns the error itself.
func (f *Failure) Unwrap() error { return f.Err }

// Misuse is for what the caller got wrong: arguments, and files of the caller's own.
func Misuse(err error, hint string) error {
	return &Failure{Err: err, Stage: keystead.StageMisuse, Hint: hint}
}

// NotFound is for what was asked for by name or number and does not exist.
func NotFound(err error, hint string) error {
	return &Failure{Err: err, Stage: keystead.StageNotFound, Hint: hint}
}

// Unavailable is for what may pass later: a network, a program or a machine that is not there.
func Unavailable(err error, hint string) error {
	return &Failure{Err: err, Stage: keystead.StageUnavailable, Hint: hint}
}

// Hinted adds a hint and leaves the stage to the error.
func Hinted(err error, hint string) error { return &Failure{Err: err, Hint: hint} }

// interrupted is the exit status after ctrl-C, as shells have it: no refusal, and no stage.
const interrupted keystead.Stage = 128 + 2

// Stage returns where an error falls, which is the exit status.
func Stage(err error) keystead.Stage {
	var (
		own    *Failure
		deny   *keystead.DenyError
		format *keystead.FormatError
	)
	switch {
	case errors.As(err, &own) && own.Stage != 0:
		return own.Stage
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

// Reported is the answer that --json gives when there is no other.
type Reported struct {
	Exit     keystead.Stage     `json:"exit"`
	Message  string             `json:"message"`
	Hint     string             `json:"hint,omitempty"`
	Findings []keystead.Finding `json:"findings,omitempty"`
}

// Report writes an error, every finding on a line of its own, and returns the exit status.
func (a *App) Report(err error) int {
	if err == nil {
		return 0
	}
	r := Reported{Exit: Stage(err), Message: err.Error()}
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
	own := (*Failure)(nil)
	if errors.As(err, &own) && own.First != "" {
		r.Message = own.First
		lines = append([]string{own.First}, lines...)
	}
	for _, line := range lines {
		fmt.Fprintf(a.Stderr, "keystead: error: %s\n", Printable(line))
	}
	if own != nil && own.Hint != "" {
		r.Hint = own.Hint
		fmt.Fprintf(a.Stderr, "keystead: hint: %s\n", Printable(own.Hint))
	}
	if a.JSON && !a.answered {
		_ = a.Answer(map[string]Reported{"error": r}, nil) // the exit status says it as well
	}
	return int(r.Exit)
}

// Printable escapes what a terminal would obey: evidence chooses parts of messages.
func Printable(s string) string {
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
