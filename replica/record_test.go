package replica

import (
	"bytes"
	"errors"
	"testing"

	"github.com/keystead/keystead"
	pb "go.etcd.io/raft/v3/raftpb"
)

// FuzzRecords: a body of the log is read whole or refused as a FormatError, and what is
// read is encoded alike.
func FuzzRecords(f *testing.F) {
	n := nodeRecord{reset: true, id: 3, start: 7, first: entryID{8, 2}, state: "state-000004"}
	hard := &pb.HardState{Term: new(uint64(4)), Vote: new(uint64(1)), Commit: new(uint64(9))}
	f.Add(appendEntry(appendEntry(nil, entry(9, 9, "a")), entry(10, 10)))
	f.Add(appendHard(n.append(nil), hard))
	f.Add([]byte{recordEntry, 0, 255})
	f.Add([]byte{99})
	f.Fuzz(func(t *testing.T, b []byte) {
		var again []byte
		err := (&records{b: b}).each(func(e entryRecord) error {
			again = appendEntry(again, e.entry())
			return nil
		}, func(h *pb.HardState) {
			again = appendHard(again, h)
		}, func(n nodeRecord) {
			again = n.append(again)
		})
		var format *keystead.FormatError
		if err != nil && !errors.As(err, &format) {
			t.Fatalf("want a FormatError, got %v", err)
		}
		if err == nil && !bytes.Equal(again, b) {
			t.Fatalf("%x is read as %x", b, again)
		}
	})
}
