package replica

import (
	"errors"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.etcd.io/raft/v3"
	pb "go.etcd.io/raft/v3/raftpb"
)

// meanwhile is a disk that, when a segment is read next, has something done before the
// read or after it.
type meanwhile struct {
	vfs.FS
	before, after func()
}

type meanwhileFile struct {
	vfs.File
	*meanwhile
}

func (m *meanwhile) Open(name string, opts ...vfs.OpenOption) (vfs.File, error) {
	f, err := m.FS.Open(name, opts...)
	if err != nil || !strings.Contains(name, "data/log/") {
		return f, err
	}
	return meanwhileFile{f, m}, nil
}

func (f meanwhileFile) ReadAt(b []byte, at int64) (int, error) {
	if do := f.before; do != nil {
		f.before = nil
		do()
	}
	n, err := f.File.ReadAt(b, at)
	if do := f.after; do != nil {
		f.after = nil
		do()
	}
	return n, err
}

// TestOverwrittenMeanwhile: entries that are overwritten while they are read are not
// returned, nor is a mixture.
func TestOverwrittenMeanwhile(t *testing.T) {
	disk := &meanwhile{FS: vfs.NewMem()}
	m := longLog(t, StoreOptions{FS: disk})
	m.s.KeepFrom(m.committed)
	ents := m.made(m.last()+1, 100) // none is committed
	if err := m.s.Append(&pb.Message{Entries: ents, Responses: []*pb.Message{{}}}); err != nil {
		t.Fatal(err)
	}
	m.entries = append(m.entries, ents...)
	if err := errors.Join(m.s.Close(), m.open()); err != nil { // now the older of these are on disk only
		t.Fatal(err)
	}
	for _, keeps := range []uint64{3, 2, 1} {
		lo := m.committed + 2
		if lo > m.s.log.tail.before {
			t.Fatal("all is in memory")
		}
		overwrite := func() {
			m.term++
			ents := m.made(lo+keeps-1, 30)
			if err := m.s.Append(&pb.Message{Entries: ents, Responses: []*pb.Message{{}}}); err != nil {
				t.Fatal(err)
			}
			m.entries = append(m.entries[:lo+keeps-3], ents...)
		}
		m.s.cache = logCache{}
		disk.after = overwrite
		if err := m.same(lo, m.last()+1, 1<<20); err != nil {
			t.Error(err)
		}
		if disk.after != nil {
			t.Fatal("nothing was read")
		}
		more := m.made(m.last()+1, 100)
		if err := m.s.Append(&pb.Message{Entries: more, Responses: []*pb.Message{{}}}); err != nil {
			t.Fatal(err)
		}
		m.entries = append(m.entries, more...)
		if err := errors.Join(m.s.Close(), m.open()); err != nil {
			t.Fatal(err)
		}
	}
}

// TestUsedAgainMeanwhile: a file that is let go and written over while it is read is not
// taken for damage, but for what it is.
func TestUsedAgainMeanwhile(t *testing.T) {
	disk := &meanwhile{FS: vfs.NewMem()}
	m := longLog(t, StoreOptions{FS: disk})
	s := m.onDisk()[0]
	path := m.s.logPath(s)
	disk.before = func() {
		m.s.KeepFrom(m.committed)
		for range 100 {
			if err := errors.Join(m.append(), m.apply()); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := disk.Stat(path); err == nil {
			t.Fatal("the file was not used again")
		}
	}
	if _, err := m.s.Entries(s.first.index, s.last.index+1, 1<<20); !errors.Is(err, raft.ErrCompacted) {
		t.Errorf("want that the entries are gone, got %v", err)
	}
}

// TestFloorOfNewMember: what an id of before let go is not let go for the next.
func TestFloorOfNewMember(t *testing.T) {
	m := longLog(t, StoreOptions{FS: vfs.NewMem()})
	m.s.KeepFrom(1 << 60)
	if err := m.s.Rejoin(9); err != nil {
		t.Fatal(err)
	}
	m.entries = m.made(1, 300)
	for i := range m.entries {
		if err := m.s.Append(&pb.Message{Entries: m.entries[i : i+1], Responses: []*pb.Message{{}}}); err != nil {
			t.Fatal(err)
		}
		if _, err := m.s.Apply(&pb.Message{Entries: m.entries[i : i+1]}); err != nil {
			t.Fatal(err)
		}
	}
	if first, _ := m.s.FirstIndex(); first != 1 || m.s.flushes.durable.Load().index < 100 {
		t.Errorf("a log from %d, with %v on disk", first, m.s.flushes.durable.Load())
	}
}
