// Package conf reads the configuration files of nodes and agents.
//
// A file is TOML, decoded strictly: a key that no field has, a value of another type
// and a value out of range are errors that name their line or field. Whoever writes
// the file is trusted with what each field says it is trusted with.
package conf

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

// MaxSize bounds a configuration file, in bytes.
const MaxSize = 1 << 20

// An Error says where a configuration is wrong: a line of the file if it is known,
// else a field.
type Error struct {
	Line    int
	Problem string
}

func (e *Error) Error() string {
	if e.Line > 0 {
		return fmt.Sprintf("line %d: %s", e.Line, e.Problem)
	}
	return e.Problem
}

// Bad is an Error about a field, which the text names.
func Bad(format string, args ...any) error { return &Error{Problem: fmt.Sprintf(format, args...)} }

// ReadFile reads a file whole, or fails if it holds more than limit bytes.
func ReadFile(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("%s: is longer than the %d bytes that are accepted", path, limit)
	}
	return b, err
}

// ReadSecret reads a file that nobody but its owner may read.
func ReadSecret(path string) ([]byte, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if st.Mode()&fs.ModePerm&0o077 != 0 {
		return nil, fmt.Errorf("%s: others can read it (mode %o); it must be 0600", path, st.Mode()&fs.ModePerm)
	}
	return ReadFile(path, MaxSize)
}

// Decode decodes strictly into a struct that holds the defaults. Where a key is no
// field, the error names the command that lists them.
func Decode(raw []byte, into any, manual string) error {
	err := toml.NewDecoder(bytes.NewReader(raw)).DisallowUnknownFields().Decode(into)
	var unknown *toml.StrictMissingError
	var wrong *toml.DecodeError
	switch {
	case errors.As(err, &unknown):
		first := unknown.Errors[0]
		line, _ := first.Position()
		return &Error{Line: line, Problem: fmt.Sprintf("%s is not a field; %s lists them", strings.Join(first.Key(), "."), manual)}
	case errors.As(err, &wrong):
		line, _ := wrong.Position()
		return &Error{Line: line, Problem: wrong.Error()}
	case err != nil:
		return &Error{Problem: err.Error()}
	}
	return nil
}

// Log says what is logged, on standard error.
type Log struct {
	Level  string `toml:"level"`
	Format string `toml:"format"`
}

// Check reports a value that is out of range.
func (l *Log) Check() error {
	var level slog.Level
	switch {
	case !slices.Contains([]string{"text", "json"}, l.Format):
		return Bad("log.format must be text or json, and is %q", l.Format)
	case level.UnmarshalText([]byte(l.Level)) != nil:
		return Bad("log.level must be debug, info, warn or error, and is %q", l.Level)
	}
	return nil
}

// Logger returns the logger that a checked Log asks for.
func (l *Log) Logger(w io.Writer) *slog.Logger {
	var level slog.Level
	_ = level.UnmarshalText([]byte(l.Level)) // Check has parsed it
	if l.Format == "json" {
		return slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{Level: level}))
	}
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: level}))
}
