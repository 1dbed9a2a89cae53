// Package bounded reads what unpacks, and stops what unpacks to too much. It trusts
// nobody: a bound is what the caller can afford, not what a header states.
package bounded

import (
	"errors"
	"io"
)

// ErrTooLarge is what a Reader gives when there is more than its bound.
var ErrTooLarge = errors.New("unpacks to more than its bound")

// Reader reads at most Left bytes of R; more are ErrTooLarge.
type Reader struct {
	R    io.Reader
	Left int64
}

// Read implements io.Reader.
func (b *Reader) Read(p []byte) (int, error) {
	if int64(len(p)) > b.Left+1 {
		p = p[:b.Left+1]
	}
	n, err := b.R.Read(p)
	if b.Left -= int64(n); b.Left < 0 {
		return 0, ErrTooLarge
	}
	return n, err
}
