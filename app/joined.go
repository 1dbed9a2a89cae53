package app

import "io"

// Joined reads parts of files as one. Its Size is where the last part ends.
type Joined struct {
	parts  []io.ReaderAt
	starts []int64 // of a part's own offset 0, in the whole
	ends   []int64 // of a part, in the whole
}

// Size is the number of bytes.
func (j *Joined) Size() int64 { return j.ends[len(j.ends)-1] }

// Reader returns a reader of the whole.
func (j *Joined) Reader() io.Reader { return io.NewSectionReader(j, 0, j.Size()) }

// ReadAt reads from offset on.
func (j *Joined) ReadAt(b []byte, offset int64) (n int, err error) {
	for i, part := range j.parts {
		for n < len(b) && offset < j.ends[i] {
			want := b[n:min(int64(len(b)), int64(n)+j.ends[i]-offset)]
			got, err := part.ReadAt(want, offset-j.starts[i])
			n, offset = n+got, offset+int64(got)
			if got < len(want) {
				return n, err
			}
		}
	}
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

type bytesAt []byte

func (b bytesAt) ReadAt(p []byte, offset int64) (int, error) {
	if offset < 0 || offset >= int64(len(b)) {
		return 0, io.EOF
	}
	n := copy(p, b[offset:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}
