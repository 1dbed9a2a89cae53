package ledger

import (
	"errors"
	"strings"
	"testing"

	"github.com/keystead/keystead"
)

// pairs is a store of a few pairs.
type pairs map[string]string

func (p pairs) Get(key []byte) ([]byte, bool, error) {
	v, ok := p[string(key)]
	return []byte(v), ok, nil
}

func (p pairs) Scan(_, _ []byte, _ func(key, value []byte) bool) error { return nil }

// TestStoredValues: a value is found in its record or in its entry, and a record that
// leads nowhere is refused.
func TestStoredValues(t *testing.T) {
	entry := "......value of an entry"
	for _, tc := range []struct {
		name, record, want, field string
	}{
		{"in the record", "\x00\x00\x00\x00\x00\x00\x00\x08\x00short", "short", ""},
		{"empty", "\x00\x00\x00\x00\x00\x00\x00\x08\x00", "", ""},
		{"in the entry", "\x00\x00\x00\x00\x00\x00\x00\x08\x01\x00\x00\x00\x06\x00\x00\x00\x05", "value", ""},
		{"past the entry", "\x00\x00\x00\x00\x00\x00\x00\x08\x01\x00\x00\x00\x06\x00\x00\x00\xff", "", "offset"},
		{"far past the entry", "\x00\x00\x00\x00\x00\x00\x00\x08\x01\xff\xff\xff\xff\xff\xff\xff\xff", "", "offset"},
		{"no such entry", "\x00\x00\x00\x00\x00\x00\x00\x09\x01\x00\x00\x00\x06\x00\x00\x00\x05", "", "offset"},
		{"another form", "\x00\x00\x00\x00\x00\x00\x00\x08\x02", "", "form"},
		{"cut short", "\x00\x00\x00\x00\x00\x00\x00\x08\x01\x00\x00", "", "offset"},
		{"too long", "\x00\x00\x00\x00\x00\x00\x00\x08\x01\x00\x00\x00\x06\x00\x00\x00\x05!", "", "end"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			store := pairs{"kkv/a": tc.record, string(numberKey(spaceEntry, 7)): entry}
			v, err := NewView(store).Get("kv/a")
			var format *keystead.FormatError
			switch {
			case tc.field == "" && (err != nil || string(v.Data) != tc.want || v.Version != 8):
				t.Errorf("want %q at version 8, got %q at %d, %v", tc.want, v.Data, v.Version, err)
			case tc.field != "" && (!errors.As(err, &format) || !strings.HasPrefix(format.Field, tc.field)):
				t.Errorf("want a FormatError of %s, got %v", tc.field, err)
			}
		})
	}
}
