package segment

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"github.com/keystead/keystead"
)

// Version is the format's, append-only:
//
//	1  as in docs/spec/log.md
const Version = 1

const (
	magic     = "kseg"
	headSize  = 4 + 4 + 4 + 4 + 4*8 // magic, version, crc32c of the rest, length, number, prev, prevEnd, first
	batchSize = 4 + 4 + 3*8         // crc32c of the rest, length, number, offset, synced
	maxHead   = 4 << 10             // bytes of a head's body
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// A head begins a segment. Its body states anew what earlier segments said.
type head struct {
	number  uint64
	prev    uint64 // the segment before, whatever its number; 0 for none
	prevEnd uint64 // where that one's bodies end
	first   uint64 // the oldest segment still needed; this one's number if no other is
	body    []byte
}

func (h *head) end() uint64 { return headSize + uint64(len(h.body)) }

func (h *head) append(b []byte) []byte {
	at := len(b)
	b = append(b, magic...)
	b = binary.BigEndian.AppendUint32(b, Version)
	b = append(b, 0, 0, 0, 0)
	b = binary.BigEndian.AppendUint32(b, uint32(len(h.body)))
	for _, n := range []uint64{h.number, h.prev, h.prevEnd, h.first} {
		b = binary.BigEndian.AppendUint64(b, n)
	}
	b = append(b, h.body...)
	binary.BigEndian.PutUint32(b[at+8:], crc32.Checksum(b[at+12:], castagnoli))
	return b
}

// parseHead reads the head of segment number. ok is false where there is none: a
// crash can leave a file like that before anything was written behind it.
func parseHead(b []byte, number uint64) (h head, ok bool, err error) {
	if len(b) < headSize || string(b[:4]) != magic {
		return h, false, nil
	}
	if v := binary.BigEndian.Uint32(b[4:]); v != Version {
		return h, false, bad(0, "version", fmt.Sprintf("is %d; this build knows %d", v, Version))
	}
	n := uint64(binary.BigEndian.Uint32(b[12:]))
	if n > maxHead || n > uint64(len(b)-headSize) || crc32.Checksum(b[12:headSize+n], castagnoli) != binary.BigEndian.Uint32(b[8:]) {
		return h, false, nil
	}
	u64 := func(i int) uint64 { return binary.BigEndian.Uint64(b[16+8*i:]) }
	h = head{u64(0), u64(1), u64(2), u64(3), b[headSize : headSize+n]}
	if h.number != number { // of the file's earlier use
		return h, false, nil
	}
	if h.first > number || h.first == 0 || (h.prev >= number) || (h.prev == 0) != (h.first == number) || h.prev != 0 && h.prev < h.first {
		return h, false, bad(16, "head", fmt.Sprintf("names segment %d before it and %d as the first needed", h.prev, h.first))
	}
	return h, true, nil
}

// seal fills in the head of the batch that begins at b[0] and takes up all of b.
func seal(b []byte, number, offset, synced uint64) {
	binary.BigEndian.PutUint32(b[4:], uint32(len(b)-batchSize))
	binary.BigEndian.PutUint64(b[8:], number)
	binary.BigEndian.PutUint64(b[16:], offset)
	binary.BigEndian.PutUint64(b[24:], synced)
	binary.BigEndian.PutUint32(b, crc32.Checksum(b[4:], castagnoli))
}

// parseBatch reads the batch at the offset of a segment whose bytes from there on are b.
func parseBatch(b []byte, number, offset uint64) (body []byte, synced uint64, ok bool) {
	if len(b) < batchSize || binary.BigEndian.Uint64(b[8:]) != number || binary.BigEndian.Uint64(b[16:]) != offset {
		return nil, 0, false
	}
	n := uint64(binary.BigEndian.Uint32(b[4:]))
	if n > uint64(len(b)-batchSize) || crc32.Checksum(b[4:batchSize+n], castagnoli) != binary.BigEndian.Uint32(b) {
		return nil, 0, false
	}
	return b[batchSize : batchSize+n], binary.BigEndian.Uint64(b[24:]), true
}

// walk visits the bodies of a place, whose bytes are b, and returns where they end: at
// the place's end, or before at bytes that are no batch.
func walk(b []byte, all Place, visit func(at Place, body []byte) error) (end uint64, err error) {
	for end = all.From; end < all.To; {
		body, _, ok := parseBatch(b[end-all.From:], all.Number, end)
		if !ok {
			break
		}
		at := Place{all.Number, end, end + batchSize + uint64(len(body))}
		if err := visit(at, body); err != nil {
			return end, err
		}
		end = at.To
	}
	return end, nil
}

// claimed reports whether any batch behind the end says that more than that was synced,
// and how much.
func claimed(b []byte, number, end uint64) (synced uint64, found bool) {
	for at := end; at+batchSize <= uint64(len(b)); at++ {
		if synced := binary.BigEndian.Uint64(b[at+24:]); synced <= end || synced > at {
			continue
		}
		if _, synced, ok := parseBatch(b[at:], number, at); ok {
			return synced, true
		}
	}
	return 0, false
}

func bad(offset uint64, field, problem string) error {
	return &keystead.FormatError{Format: "log-segment", Offset: int64(offset), Field: field, Problem: problem}
}
