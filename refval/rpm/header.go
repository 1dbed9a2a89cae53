package rpm

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"strconv"

	"github.com/keystead/keystead"
)

// Tags of a header (rpm's rpmtag.h) that are read here.
const (
	tagImmutable      = 63 // opens the signed region
	tagDSAHeader      = 267
	tagRSAHeader      = 268
	tagSHA1Header     = 269
	tagSHA256Header   = 273
	tagOpenPGP        = 278
	tagName           = 1000
	tagVersion        = 1001
	tagRelease        = 1002
	tagEpoch          = 1003
	tagVendor         = 1011
	tagArch           = 1022
	tagOldFileNames   = 1027
	tagFileSizes      = 1028
	tagFileModes      = 1030
	tagFileDigests    = 1035
	tagFileFlags      = 1037
	tagDirIndexes     = 1116
	tagBaseNames      = 1117
	tagDirNames       = 1118
	tagFileColors     = 1140
	tagLongFileSizes  = 5008
	tagFileDigestAlgo = 5011
	tagFileSignatures = 5090
)

// Types of an entry's data.
const (
	typeChar        = 1
	typeInt8        = 2
	typeInt16       = 3
	typeInt32       = 4
	typeInt64       = 5
	typeString      = 6
	typeBin         = 7
	typeStringArray = 8
	typeI18NString  = 9
)

// Bounds of one header. Those of rpm itself are larger; no package that is known comes
// near to these.
const (
	MaxHeader  = 64 << 20 // bytes
	maxEntries = 4096
)

// magic stands before a header in a package file, is not in a database, and is signed.
var magic = []byte{0x8e, 0xad, 0xe8, 1, 0, 0, 0, 0}

const (
	entrySize = 16
	preamble  = 8 // number of entries, bytes of data
)

// entry is one of the index. Its bytes alias the header.
type entry struct {
	tag, typ, offset, count int
	data                    []byte
}

// Header is a package's header as a database holds it: the region that the package
// came with, and what was added beside it. It parses; nothing of it is proven.
type Header struct {
	raw    []byte
	signed []byte  // what digests and signatures are over; nil if there is no region
	region []entry // of the signed part, in order of their tags; all where there is none
	beside []entry // of signatures and of what rpm noted, in order of their tags
	odd    string  // what a header that nobody meddled with does not have; "" for none
}

func headerError(offset int, field, format string, args ...any) error {
	return &keystead.FormatError{Format: "rpm-header", Offset: int64(offset), Field: field, Problem: fmt.Sprintf(format, args...)}
}

// ParseHeader reads a header, which begins with its two counts. It keeps blob. It fails
// with a *keystead.FormatError. A header without a region, as rpm 3 made them and newer
// ones make of imported keys, parses; nobody signed it.
func ParseHeader(blob []byte) (*Header, error) {
	if len(blob) < preamble+entrySize || len(blob) > MaxHeader {
		return nil, headerError(0, "whole", "is %d bytes long, want %d to %d", len(blob), preamble+entrySize, MaxHeader)
	}
	entries, size := int(binary.BigEndian.Uint32(blob)), int(binary.BigEndian.Uint32(blob[4:]))
	if entries < 1 || entries > maxEntries {
		return nil, headerError(0, "index", "has %d entries, want 1 to %d", entries, maxEntries)
	}
	start := preamble + entries*entrySize
	if size > len(blob) || start > len(blob)-size {
		return nil, headerError(4, "data", "states %d bytes after an index of %d, the header has %d", size, start, len(blob))
	}
	h := &Header{raw: blob}
	data := blob[start : start+size]
	if n := len(blob) - start - size; n > 0 {
		h.odd = fmt.Sprintf("%d bytes after its end", n)
	}
	if readEntry(blob, 0).tag != tagImmutable {
		var err error
		h.region, err = h.entries(blob, 0, entries, data, 0, size)
		return h, err
	}
	inRegion, regionSize, err := region(blob, entries, data)
	if err != nil {
		return nil, err
	}
	h.signed = slices.Concat(magic, binary.BigEndian.AppendUint32(nil, uint32(inRegion)), binary.BigEndian.AppendUint32(nil, uint32(regionSize)),
		blob[preamble:preamble+inRegion*entrySize], data[:regionSize])
	if h.region, err = h.entries(blob, 1, inRegion, data, 0, regionSize-entrySize); err != nil {
		return nil, err
	}
	if h.beside, err = h.entries(blob, inRegion, entries, data, regionSize, size); err != nil {
		return nil, err
	}
	h.checkBeside()
	return h, nil
}

// region reads the first entry, whose data at the end of the region says how many
// entries the region has.
func region(blob []byte, entries int, data []byte) (inRegion, size int, err error) {
	e := readEntry(blob, 0)
	if e.typ != typeBin || e.count != entrySize || e.offset < 0 || e.offset > len(data)-entrySize {
		return 0, 0, headerError(preamble, "region", "of type %d with %d elements ends at %d of %d bytes of data", e.typ, e.count, e.offset, len(data))
	}
	trailer := data[e.offset : e.offset+entrySize]
	back := -int(int32(binary.BigEndian.Uint32(trailer[8:])))
	if binary.BigEndian.Uint32(trailer) != tagImmutable || binary.BigEndian.Uint32(trailer[4:]) != typeBin || binary.BigEndian.Uint32(trailer[12:]) != entrySize ||
		back <= 0 || back%entrySize != 0 || back/entrySize > entries {
		return 0, 0, headerError(preamble+entries*entrySize+e.offset, "region", "does not end with a trailer that says where it begins")
	}
	return back / entrySize, e.offset + entrySize, nil
}

func readEntry(blob []byte, i int) entry {
	b := blob[preamble+i*entrySize:]
	at := func(n int) int { return int(int32(binary.BigEndian.Uint32(b[n:]))) }
	return entry{tag: at(0), typ: at(4), offset: at(8), count: at(12)}
}

// entries reads entries from to before to, whose data lies in data[low:high]. Data out
// of order, twice, or between the entries is noted as odd.
func (h *Header) entries(blob []byte, from, to int, data []byte, low, high int) ([]entry, error) {
	out := make([]entry, 0, to-from)
	end := low
	byOffset := make([]entry, 0, to-from)
	for i := from; i < to; i++ {
		e := readEntry(blob, i)
		field := fmt.Sprintf("tag %d", e.tag)
		if e.offset < low || e.offset > high || e.count < 1 || e.count > high-e.offset {
			return nil, headerError(preamble+i*entrySize, field, "has %d elements at %d, outside of the bytes %d to %d that are its own", e.count, e.offset, low, high)
		}
		n, ok := e.size(data[e.offset:high])
		if !ok {
			return nil, headerError(preamble+i*entrySize, field, "of type %d with %d elements does not fit its data", e.typ, e.count)
		}
		e.data = data[e.offset : e.offset+n]
		out, byOffset = append(out, e), append(byOffset, e)
	}
	slices.SortStableFunc(byOffset, func(a, b entry) int { return a.offset - b.offset })
	for _, e := range byOffset {
		switch gap := e.offset - end; {
		case gap < 0:
			h.note("tag %d shares its data with another", e.tag)
		case gap >= 8 || len(bytes.Trim(data[end:e.offset], "\x00")) > 0:
			h.note("%d bytes before tag %d that belong to none", gap, e.tag)
		}
		end = max(end, e.offset+len(e.data))
	}
	if end < high && (high-end >= 8 || len(bytes.Trim(data[end:high], "\x00")) > 0) {
		h.note("%d bytes that belong to no tag", high-end)
	}
	slices.SortStableFunc(out, func(a, b entry) int { return a.tag - b.tag })
	for i := 1; i < len(out); i++ {
		if out[i-1].tag == out[i].tag {
			h.note("tag %d twice", out[i].tag)
		}
	}
	return out, nil
}

func (h *Header) note(format string, args ...any) {
	if h.odd == "" {
		h.odd = fmt.Sprintf(format, args...)
	}
}

// installed are the tags that rpm adds to a header beside its region: those of the
// signature header under their legacy numbers, and what it notes at installation.
var installed = map[int]bool{
	256: true, 257: true, 259: true, 260: true, 261: true, 262: true, 263: true, 264: true, 265: true, 266: true, tagDSAHeader: true, tagRSAHeader: true, tagSHA1Header: true,
	270: true, 271: true, tagSHA256Header: true, tagOpenPGP: true, 279: true, 280: true,
	1008:              true,                                     // INSTALLTIME
	1029:              true,                                     // FILESTATES
	1046:              true,                                     // ARCHIVESIZE
	1127:              true,                                     // INSTALLCOLOR
	1128:              true,                                     // INSTALLTID
	1099:              true,                                     // INSTPREFIXES
	tagFileSignatures: true, 5091: true, 5276: true, 5277: true, // file and fs-verity signatures
}

// checkBeside notes what lies beside the region and should not: a tag that the region
// has, or one that rpm does not put there.
func (h *Header) checkBeside() {
	for _, e := range h.beside {
		if _, twice := find(h.region, e.tag); twice {
			h.note("tag %d inside and outside of the signed region", e.tag)
		}
		if !installed[e.tag] {
			h.note("tag %d outside of the signed region", e.tag)
		}
	}
}

func find(list []entry, tag int) (entry, bool) {
	i, ok := slices.BinarySearchFunc(list, tag, func(e entry, tag int) int { return e.tag - tag })
	if !ok {
		return entry{}, false
	}
	return list[i], true
}

// size returns how many bytes of b the entry's data takes.
func (e entry) size(b []byte) (n int, ok bool) {
	switch e.typ {
	case typeChar, typeInt8, typeBin:
		n = e.count
	case typeInt16:
		n = 2 * e.count
	case typeInt32:
		n = 4 * e.count
	case typeInt64:
		n = 8 * e.count
	case typeString, typeStringArray, typeI18NString:
		if e.typ == typeString && e.count != 1 {
			return 0, false
		}
		for range e.count {
			end := bytes.IndexByte(b[n:], 0)
			if end < 0 {
				return 0, false
			}
			n += end + 1
		}
	default:
		return 0, false
	}
	return n, n <= len(b)
}

// text returns the string of a tag, "" if there is none.
func text(list []entry, tag int) string {
	e, ok := find(list, tag)
	if !ok || e.typ != typeString && e.typ != typeI18NString {
		return ""
	}
	s, _, _ := bytes.Cut(e.data, []byte{0})
	return string(s)
}

// texts returns the strings of an array, aliasing it.
func texts(list []entry, tag int) [][]byte {
	e, ok := find(list, tag)
	if !ok || e.typ != typeStringArray && e.typ != typeString {
		return nil
	}
	return bytes.Split(e.data[:len(e.data)-1], []byte{0})
}

// numbers returns the integers of a tag, of 16, 32 or 64 bits.
func numbers(list []entry, tag int) []uint64 {
	e, ok := find(list, tag)
	width := map[int]int{typeInt16: 2, typeInt32: 4, typeInt64: 8}[e.typ]
	if !ok || width == 0 {
		return nil
	}
	out := make([]uint64, e.count)
	for i := range out {
		b := e.data[i*width:]
		switch width {
		case 2:
			out[i] = uint64(binary.BigEndian.Uint16(b))
		case 4:
			out[i] = uint64(binary.BigEndian.Uint32(b))
		default:
			out[i] = binary.BigEndian.Uint64(b)
		}
	}
	return out
}

func binaryOf(list []entry, tag int) []byte {
	e, ok := find(list, tag)
	if !ok || e.typ != typeBin {
		return nil
	}
	return e.data
}

// Name returns the package's name. Like all that a Header says of itself, it is
// proven once Verify has passed.
func (h *Header) Name() string { return text(h.region, tagName) }

// Version returns epoch, version and release: [E:]V-R.
func (h *Header) Version() string {
	v := text(h.region, tagVersion) + "-" + text(h.region, tagRelease)
	if e := numbers(h.region, tagEpoch); len(e) == 1 {
		return strconv.FormatUint(e[0], 10) + ":" + v
	}
	return v
}

// Architecture returns the package's architecture, such as x86_64 or noarch.
func (h *Header) Architecture() string { return text(h.region, tagArch) }

// String gives name, version and architecture, in quotes where they are not printable.
func (h *Header) String() string {
	s := strconv.Quote(h.Name() + "=" + h.Version() + ":" + h.Architecture())
	return s[1 : len(s)-1]
}

// Pseudo reports whether this is no package but a key that rpm imported, which it
// keeps as one: unsigned and without files.
func (h *Header) Pseudo() bool {
	_, old := find(h.region, tagOldFileNames)
	_, files := find(h.region, tagBaseNames)
	return h.Name() == "gpg-pubkey" && !old && !files
}

// Bytes returns the header as it was read. The caller must not change it.
func (h *Header) Bytes() []byte { return h.raw }

// Signed returns the bytes that the header's digests and signatures are over. The
// caller must not change them.
func (h *Header) Signed() []byte { return h.signed }

// Digest names the package: SHA-256 of the signed bytes.
func (h *Header) Digest() keystead.Digest { return keystead.Sum(h.signed) }
