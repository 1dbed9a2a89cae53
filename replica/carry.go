package replica

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"

	"github.com/cockroachdb/pebble/v2"
	pb "go.etcd.io/raft/v3/raftpb"
)

// A snapshot of a portable state travels as a stream, version 2 (docs/spec/state.md).
const carryMagic = "ksnap\x00\x00\x02"

// A Carried is a snapshot on its way to a member.
type Carried struct {
	Metadata *pb.SnapshotMetadata
	WriteTo  func(io.Writer) error
	Done     func() error // to be called once, whatever became of it
}

// Carry returns the snapshot that a member which lags is to be sent: the state at the
// stable position, or the files of the state of now where there are no positions.
func (s *Store) Carry() (*Carried, error) {
	files, err := s.travelsAsFiles()
	if err != nil {
		return nil, err
	}
	if files {
		c, err := s.Checkpoint()
		if err != nil {
			return nil, err
		}
		return &Carried{c.Metadata, func(w io.Writer) error { _, err := c.WriteTo(w); return err }, c.Remove}, nil
	}
	h := s.carriable()
	if h == nil {
		return nil, errNoStable
	}
	h.mu.Lock()
	h.sending++
	h.mu.Unlock()
	return &Carried{snapshotOf(h.id, h.members).GetMetadata(), h.writeTo, func() error { h.sent(); return nil }}, nil
}

var errNoStable = errors.New("no majority has signed the digest of a state that has all members of now")

// sent ends a stream.
func (h *Held) sent() {
	h.mu.Lock()
	h.sending--
	over := h.old && h.sending == 0
	h.mu.Unlock()
	if over {
		h.letGo(false)
	}
}

// writeTo writes the list, the chunks, and the runs.
func (h *Held) writeTo(to io.Writer) error {
	w, l := bufio.NewWriterSize(to, snapshotChunk), h.list.Load()
	if _, err := w.Write(l.append(nil)); err != nil {
		return err
	}
	var buf []byte
	for _, from := range l.starts {
		err := h.read(func(r pebble.Reader) (err error) { buf, _, err = h.store.chunk(r, from, buf[:0]); return err })
		if err != nil {
			return err
		}
		if err := writeSized(w, buf); err != nil {
			return err
		}
	}
	for i := range l.outline.Runs {
		var entries [][]byte
		err := h.read(func(r pebble.Reader) (err error) {
			entries, err = h.store.opts.Machine.(Portable).Run(View{r}, uint64(i))
			return err
		})
		if err != nil {
			return err
		}
		if _, err := w.Write(binary.BigEndian.AppendUint32(nil, uint32(len(entries)))); err != nil {
			return err
		}
		for _, e := range entries {
			if err := writeSized(w, e); err != nil {
				return err
			}
		}
	}
	return w.Flush()
}

func writeSized(w io.Writer, b []byte) error {
	if _, err := w.Write(binary.BigEndian.AppendUint32(nil, uint32(len(b)))); err != nil {
		return err
	}
	_, err := w.Write(b)
	return err
}

// append appends the list, as a stream begins with it.
func (l *stateList) append(b []byte) []byte {
	b = l.header.append(append(b, carryMagic...))
	for i := range l.chunks {
		b = append(b, l.chunks[i][:]...)
	}
	b = binary.BigEndian.AppendUint64(b, uint64(len(l.outline.Runs)))
	for i := range l.outline.Runs {
		b = append(b, l.outline.Runs[i][:]...)
	}
	b = binary.BigEndian.AppendUint32(b, uint32(len(l.outline.Proof)))
	return append(b, l.outline.Proof...)
}
