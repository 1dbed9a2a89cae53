package replica

import (
	"encoding/binary"

	"github.com/keystead/keystead"
)

// A log entry carries a batch of commands of one origin. Its data, version 1:
//
//	1 byte   version
//	8 bytes  origin: raft id of the node that proposed it, big endian
//	8 bytes  sequence number of the batch at its origin, rising
//	then until the end, for each command: length (uvarint), bytes
//
// An entry of a membership change holds the same head, in its context, and then
// the encoded [Change]. A batch is applied only if its origin is a member and its
// number is above that of every batch of the origin applied before. So a batch
// that the network doubles is applied once, and once a later batch of an origin
// is applied, its earlier ones are dead: they can be proposed anew.
const (
	batchVersion = 1
	batchHead    = 1 + 8 + 8
)

func appendHead(b []byte, origin, seq uint64) []byte {
	b = append(b, batchVersion)
	b = binary.BigEndian.AppendUint64(b, origin)
	return binary.BigEndian.AppendUint64(b, seq)
}

// parseHead returns the head of a batch and what follows it.
func parseHead(data []byte) (origin, seq uint64, rest []byte, err error) {
	if len(data) < batchHead {
		return 0, 0, nil, &keystead.FormatError{Format: "entry", Offset: int64(len(data)), Field: "head", Problem: "ends before 17 bytes"}
	}
	if data[0] != batchVersion {
		return 0, 0, nil, &keystead.FormatError{Format: "entry", Field: "version", Problem: "is not 1; a newer build wrote it"}
	}
	return binary.BigEndian.Uint64(data[1:]), binary.BigEndian.Uint64(data[9:]), data[batchHead:], nil
}

// appendCommands appends the commands of a batch, which alias rest, to out.
func appendCommands(out []Command, index, term uint64, rest []byte) ([]Command, error) {
	size := len(rest)
	for i := 0; len(rest) > 0; i++ {
		n, w := binary.Uvarint(rest)
		if w <= 0 || n > uint64(len(rest)-w) {
			return nil, &keystead.FormatError{Format: "entry", Offset: int64(batchHead + size - len(rest)), Field: "command length", Problem: "exceeds the entry"}
		}
		out = append(out, Command{Index: index, Term: term, Offset: i, Data: rest[w : w+int(n)]})
		rest = rest[w+int(n):]
	}
	return out, nil
}
