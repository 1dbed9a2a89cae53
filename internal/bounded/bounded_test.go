package bounded

import (
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

func TestReader(t *testing.T) {
	for _, tc := range []struct {
		bound int64
		err   error
	}{{6, nil}, {5, nil}, {4, ErrTooLarge}, {0, ErrTooLarge}} {
		for name, r := range map[string]io.Reader{"at once": strings.NewReader("bytes"), "one by one": iotest.OneByteReader(strings.NewReader("bytes")),
			"with the end": iotest.DataErrReader(strings.NewReader("bytes"))} {
			got, err := io.ReadAll(&Reader{r, tc.bound})
			if !errors.Is(err, tc.err) || err == nil && string(got) != "bytes" {
				t.Errorf("%s, bound %d: %q, %v", name, tc.bound, got, err)
			}
		}
	}
}
