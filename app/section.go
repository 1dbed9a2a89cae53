package app

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/keystead/keystead"
)

// textContext opens what the digest of a fixed section is over.
const textContext = "keystead/app-text/1\x00"

// Text returns the digest of a fixed section: of each segment its address, size and
// flags, as in the file's header, and its bytes as content reads them. That may be the
// file, or the memory of a process. Where the ELF header is among the bytes, the fields
// that signing changes count as zeroes. It fails if content ends early.
func Text(fixed []Segment, content func(Segment) io.Reader) (d keystead.Digest, err error) {
	h := sha256.New()
	io.WriteString(h, textContext)
	buf := make([]byte, 64<<10)
	for _, s := range fixed {
		var head [20]byte
		binary.BigEndian.PutUint64(head[:], s.Address)
		binary.BigEndian.PutUint64(head[8:], s.Size)
		binary.BigEndian.PutUint32(head[16:], uint32(s.Flags))
		h.Write(head[:])
		n, err := io.CopyBuffer(onlyWriter{h}, io.LimitReader(masked(s, content(s)), int64(s.Size)), buf)
		if err != nil {
			return keystead.Digest{}, fmt.Errorf("read the segment at 0x%x: %w", s.Address, err)
		}
		if n != int64(s.Size) {
			return keystead.Digest{}, fmt.Errorf("read the segment at 0x%x: %w", s.Address, io.ErrUnexpectedEOF)
		}
	}
	h.Sum(d[:0])
	return d, nil
}

// masked reads a segment's bytes with zeroes for the section fields of the ELF header.
func masked(s Segment, r io.Reader) io.Reader {
	if s.Offset >= headerSize {
		return r
	}
	header := make([]byte, headerSize)
	n, err := io.ReadFull(r, header[s.Offset:])
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return io.MultiReader(r) // what is wrong with it, it says again
	}
	fields{}.put(header)
	return io.MultiReader(bytes.NewReader(header[s.Offset:int(s.Offset)+n]), r)
}

// onlyWriter hides everything of a hash but Write.
type onlyWriter struct{ io.Writer }

// FileText returns the digest of the fixed section as it is in the file.
func (i *Image) FileText(file io.ReaderAt) (keystead.Digest, error) {
	return Text(i.Fixed, func(s Segment) io.Reader { return io.NewSectionReader(file, int64(s.Offset), int64(s.Size)) })
}
