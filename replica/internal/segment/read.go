package segment

import (
	"errors"
	"fmt"
	"io"
	"os"
)

// Read shows the bodies of the batches that take up the place, from one's beginning to
// one's end. The bodies are the caller's. What is not what was written, and a segment that
// is gone, are a [keystead.FormatError]. It may be called at the same time as all else: a
// file that is used again meanwhile is not taken for what it was, since a batch says in
// which segment it is.
func (l *Log) Read(at Place, visit func(at Place, body []byte) error) error {
	b, err := l.part(at)
	if err != nil {
		return err
	}
	end, err := walk(b, at, visit)
	if err == nil && end != at.To {
		err = bad(end, "batch", "is not what was written")
	}
	if err != nil {
		return fmt.Errorf("%s: %w", l.path(at.Number), err)
	}
	return nil
}

// part reads the bytes of a place.
func (l *Log) part(at Place) ([]byte, error) {
	f, err := l.opts.FS.Open(l.path(at.Number))
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", l.path(at.Number), bad(at.From, "file", "is missing, and entries of it are needed"))
	}
	if err != nil {
		return nil, err
	}
	b := make([]byte, at.To-at.From)
	_, err = f.ReadAt(b, int64(at.From))
	if errors.Is(err, io.EOF) {
		err = fmt.Errorf("%s: %w", l.path(at.Number), bad(at.From, "batch", fmt.Sprintf("is cut short before %d", at.To)))
	}
	return b, errors.Join(err, f.Close())
}
