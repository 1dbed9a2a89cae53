package rpm

import "encoding/binary"

// The format ndb of rpm (lib/backend/ndb/rpmpkg.c), little-endian: a header of 32 bytes,
// slots of 16 bytes up to the end of their pages, then blobs in blocks of 16 bytes.
const (
	ndbMagic    = "RpmP"
	ndbSlot     = "Slot"
	ndbBlob     = "BlbS"
	ndbBlobEnd  = "BlbE"
	ndbPage     = 4096
	ndbBlock    = 16
	ndbHead     = 32
	ndbMaxPages = 2048
)

func isNDB(b []byte) bool { return len(b) >= ndbHead && string(b[:4]) == ndbMagic }

func ndbHeaders(b []byte, yield func([]byte, error) bool) error {
	u32 := func(at int) int { return int(binary.LittleEndian.Uint32(b[at:])) }
	if v := u32(4); v != 0 {
		return databaseError("rpmdb-ndb", 4, "version", "is %d, want 0", v)
	}
	slots := u32(12)
	if slots < 1 || slots > ndbMaxPages || slots*ndbPage > len(b) {
		return databaseError("rpmdb-ndb", 12, "slot pages", "are %d, want 1 to %d that are there", slots, ndbMaxPages)
	}
	used := make([]bool, len(b)/ndbBlock+1)
	for at := ndbHead; at < slots*ndbPage; at += ndbBlock {
		if string(b[at:at+4]) != ndbSlot {
			return databaseError("rpmdb-ndb", at, "slot", "begins with %.4q, want %q", b[at:at+4], ndbSlot)
		}
		number, start, blocks := u32(at+4), u32(at+8), u32(at+12)
		if number == 0 {
			continue
		}
		if start*ndbBlock < slots*ndbPage || blocks < 2 || start+blocks > len(b)/ndbBlock {
			return databaseError("rpmdb-ndb", at, "slot", "points to %d blocks at %d, which are not there", blocks, start)
		}
		for i := start; i < start+blocks; i++ {
			if used[i] {
				return databaseError("rpmdb-ndb", i*ndbBlock, "block", "belongs to two packages")
			}
			used[i] = true
		}
		from := start * ndbBlock
		blob := b[from : from+blocks*ndbBlock]
		size := u32(from + 12)
		const around = ndbBlock + 12 // a head of 16 bytes, a tail of 12 and padding before it
		if string(blob[:4]) != ndbBlob || u32(from+4) != number || size > len(blob)-around || string(blob[len(blob)-4:]) != ndbBlobEnd || u32(from+len(blob)-8) != size {
			return databaseError("rpmdb-ndb", from, "blob", "of package %d does not begin and end as its slot says", number)
		}
		if size > MaxHeader {
			return databaseError("rpmdb-ndb", from, "blob", "is %d bytes long, at most %d are accepted", size, MaxHeader)
		}
		if !yield(blob[ndbBlock:ndbBlock+size], nil) {
			return errStop
		}
	}
	return nil
}
