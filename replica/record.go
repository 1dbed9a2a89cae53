package replica

import (
	"encoding/binary"
	"fmt"

	"github.com/keystead/keystead"
	pb "go.etcd.io/raft/v3/raftpb"
)

// The bodies of the log's segments are records, one after another; see docs/spec/log.md.
const (
	recordEntry = 1 // type (1), index (8), term (8), length (4), data: what follows the index before is void
	recordHard  = 2 // term (8), vote (8), commit (8)
	recordNode  = 3 // encoded node record, as below
)

// nodeRecord is what is this node's own and not raft's.
//
//	1 byte    1 if the log is empty from here on and begins after first, else 0
//	8 bytes   raft id
//	8 bytes   how often a node started on this store
//	16 bytes  index and term of the last entry before the log
//	1 byte    length of the name of the state's directory, 0 if there is none yet, and the name
type nodeRecord struct {
	reset     bool
	id, start uint64
	first     entryID
	state     string
}

func appendEntry(b []byte, e *pb.Entry) []byte {
	b = append(b, recordEntry, byte(e.GetType()))
	b = binary.BigEndian.AppendUint64(b, e.GetIndex())
	b = binary.BigEndian.AppendUint64(b, e.GetTerm())
	b = binary.BigEndian.AppendUint32(b, uint32(len(e.GetData())))
	return append(b, e.GetData()...)
}

func appendHard(b []byte, h *pb.HardState) []byte {
	b = binary.BigEndian.AppendUint64(append(b, recordHard), h.GetTerm())
	b = binary.BigEndian.AppendUint64(b, h.GetVote())
	return binary.BigEndian.AppendUint64(b, h.GetCommit())
}

func (n *nodeRecord) append(b []byte) []byte {
	reset := byte(0)
	if n.reset {
		reset = 1
	}
	b = append(b, recordNode, reset)
	for _, v := range []uint64{n.id, n.start, n.first.index, n.first.term} {
		b = binary.BigEndian.AppendUint64(b, v)
	}
	return append(append(b, byte(len(n.state))), n.state...)
}

// An entryRecord is an entry as the log has it.
type entryRecord struct {
	entryID
	kind pb.EntryType
	data []byte // of the body
}

// entry returns the entry; its data is the body's.
func (r *entryRecord) entry() *pb.Entry {
	e := &pb.Entry{Index: &r.index, Term: &r.term, Type: &r.kind}
	if len(r.data) > 0 {
		e.Data = r.data
	}
	return e
}

// A records reads a body. It keeps its first error, a FormatError.
type records struct {
	b   []byte
	at  int
	err error
}

func (r *records) take(n int, field string) []byte {
	if r.err == nil && n > len(r.b)-r.at {
		r.err = &keystead.FormatError{Format: "log-record", Offset: int64(r.at), Field: field, Problem: "exceeds the body"}
	}
	if r.err != nil {
		return make([]byte, min(n, 8))
	}
	r.at += n
	return r.b[r.at-n : r.at]
}

func (r *records) u8(field string) byte    { return r.take(1, field)[0] }
func (r *records) u64(field string) uint64 { return binary.BigEndian.Uint64(r.take(8, field)) }

func (r *records) fail(field, problem string, args ...any) {
	if r.err == nil {
		r.err = &keystead.FormatError{Format: "log-record", Offset: int64(r.at), Field: field, Problem: fmt.Sprintf(problem, args...)}
	}
}

// each calls the function for the kind of each record.
func (r *records) each(entry func(entryRecord) error, hard func(*pb.HardState), node func(nodeRecord)) error {
	for r.at < len(r.b) && r.err == nil {
		switch kind := r.u8("kind"); kind {
		case recordEntry:
			e := entryRecord{kind: pb.EntryType(r.u8("type")), entryID: entryID{r.u64("index"), r.u64("term")}}
			e.data = r.take(int(binary.BigEndian.Uint32(r.take(4, "length"))), "data")
			if _, known := pb.EntryType_name[int32(e.kind)]; !known {
				r.fail("type", "is %d, which is none", e.kind)
			}
			if e.index == 0 {
				r.fail("index", "is 0")
			}
			if r.err == nil {
				r.err = entry(e)
			}
		case recordHard:
			term, vote, commit := r.u64("term"), r.u64("vote"), r.u64("commit")
			if r.err == nil {
				hard(&pb.HardState{Term: &term, Vote: &vote, Commit: &commit})
			}
		case recordNode:
			reset := r.u8("reset")
			if reset > 1 {
				r.fail("reset", "is %d, not 0 or 1", reset)
			}
			n := nodeRecord{reset: reset == 1, id: r.u64("id"), start: r.u64("start"), first: entryID{r.u64("index"), r.u64("term")}}
			n.state = string(r.take(int(r.u8("name length")), "name"))
			if r.err == nil && !stateName.MatchString(n.state) {
				r.fail("name", "is %q, which is no directory of a state", n.state)
			}
			if r.err == nil {
				node(n)
			}
		default:
			r.fail("kind", "is %d; a newer build wrote it", kind)
		}
	}
	return r.err
}
