package eventlog

import (
	"bytes"
	"encoding/asn1"
	"encoding/binary"
	"strconv"
	"strings"
	"unicode/utf16"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/evidence"
)

// maxAuthorities bounds what a log may list; machines measure a handful.
const maxAuthorities = 64

// guid is an EFI_GUID as it stands in memory.
type guid [16]byte

// Owners of variables and types of signatures (UEFI 2.10, 3.3 and 32.4.1; shim).
var (
	globalVariable = guid{0x61, 0xdf, 0xe4, 0x8b, 0xca, 0x93, 0xd2, 0x11, 0xaa, 0x0d, 0x00, 0xe0, 0x98, 0x03, 0x2b, 0x8c}
	imageSecurity  = guid{0xcb, 0xb2, 0x19, 0xd7, 0x3a, 0x3d, 0x96, 0x45, 0xa3, 0xbc, 0xda, 0xd0, 0x0e, 0x67, 0x65, 0x6f}
	shimLock       = guid{0x50, 0xab, 0x5d, 0x60, 0x46, 0xe0, 0x00, 0x43, 0xab, 0xb6, 0x3d, 0xd8, 0x10, 0xdd, 0x8b, 0x23}
	certX509       = guid{0xa1, 0x59, 0xc0, 0xa5, 0xe4, 0x94, 0xa7, 0x4a, 0x87, 0xb5, 0xab, 0x15, 0x5c, 0x2b, 0xf0, 0x72}
)

// variable is a UEFI_VARIABLE_DATA structure (PFP 1.06, 10.2.6).
type variable struct {
	owner guid
	name  string
	data  []byte
}

// parseVariable reads GUID, lengths of name in characters and of data in bytes, name, data.
func parseVariable(b []byte) (v variable, ok bool) {
	const head = 16 + 8 + 8
	if len(b) < head {
		return v, false
	}
	name, data := binary.LittleEndian.Uint64(b[16:]), binary.LittleEndian.Uint64(b[24:])
	rest := b[head:]
	if name > uint64(len(rest))/2 || data != uint64(len(rest))-2*name {
		return v, false
	}
	var short [32]uint16 // nearly all are
	u := short[:0]
	for i := range name {
		u = append(u, binary.LittleEndian.Uint16(rest[2*i:]))
	}
	return variable{guid(b[:16]), string(utf16.Decode(u)), rest[2*name:]}, true
}

// secureBootKeys fills in what PCR 7 has about keys: before its first separator the
// firmware's own lists, after it what the images that ran were verified by.
func (l *Log) secureBootKeys(c *evidence.BootClaims) {
	end := l.separator(7)
	if end == nil {
		return
	}
	var lists, levels []variable
	for e := range l.of(7) {
		v, known := parseVariable(e.Data)
		before := e.Number < end.Number
		list := before && v.owner == imageSecurity && (v.name == "db" || v.name == "dbx")
		known = known && (list || !before) && l.has(e, e.Data) // the name, too: a digest of the value alone is not enough
		switch {
		case list && known:
			lists = append(lists, v)
		case before || e == end:
		case known && v.owner == shimLock && v.name == "SbatLevel":
			levels = append(levels, v)
		case known && v.owner == shimLock && v.name == "MokListTrusted":
		default:
			c.Authorities = append(c.Authorities, authority(e, v, known))
		}
	}
	if len(c.Authorities) > maxAuthorities {
		c.Authorities = nil
	}
	c.Keys, c.Revoked = keyLists(lists)
	if len(levels) == 1 {
		c.SBAT = sbatLevel(levels[0].data)
	}
}

// authority names by what an image was verified: a certificate by the SHA-256 of its
// DER, anything else by the digest in the log.
func authority(e *Event, v variable, known bool) string {
	if known {
		for _, der := range [][]byte{v.data, v.data[min(len(v.data), len(guid{})):]} { // shim leaves out the owner
			if certificate(der) {
				return keystead.Sum(der).String()
			}
		}
	}
	return "event:" + keystead.Digest(e.Digest[:min(len(e.Digest), 32)]).String()
}

// certificate reports whether b is one DER sequence of sequences, as a certificate is
// and a hash is not. Whether it is a good one, the firmware has judged.
func certificate(b []byte) bool {
	var outer, signed asn1.RawValue
	rest, err := asn1.Unmarshal(b, &outer)
	if err != nil || len(rest) > 0 || outer.Tag != asn1.TagSequence {
		return false
	}
	_, err = asn1.Unmarshal(outer.Bytes, &signed)
	return err == nil && signed.Tag == asn1.TagSequence
}

// keyLists returns the certificates in db, by the SHA-256 of their DER, and the number
// of entries in dbx. A list that was measured twice or does not parse counts for nothing.
func keyLists(lists []variable) (keys []string, revoked int64) {
	content := map[string][]signature{}
	for _, v := range lists {
		s, ok := signatures(v.data)
		if _, again := content[v.name]; again || !ok {
			s = nil
		}
		content[v.name] = s
	}
	for _, s := range content["db"] {
		if s.kind == certX509 && len(keys) < maxAuthorities {
			keys = append(keys, keystead.Sum(s.data).String())
		}
	}
	return keys, int64(len(content["dbx"]))
}

// signature is an EFI_SIGNATURE_DATA without its owner.
type signature struct {
	kind guid
	data []byte
}

// signatures reads a sequence of EFI_SIGNATURE_LISTs (UEFI 2.10, 32.4.1).
func signatures(b []byte) (out []signature, ok bool) {
	const head, owner = 16 + 3*4, len(guid{})
	for len(b) > 0 {
		if len(b) < head {
			return nil, false
		}
		list, header, size := binary.LittleEndian.Uint32(b[16:]), binary.LittleEndian.Uint32(b[20:]), binary.LittleEndian.Uint32(b[24:])
		if uint64(list) > uint64(len(b)) || uint64(list) < head+uint64(header) || size <= uint32(owner) || (list-head-header)%size != 0 {
			return nil, false
		}
		for at := head + header; at < list; at += size {
			out = append(out, signature{guid(b[:16]), b[at+uint32(owner) : at+size]})
		}
		b = b[list:]
	}
	return out, true
}

// sbatLevel reads the date in shim's SbatLevel, such as 2024010900: "sbat,1,DATE" is its
// first line. 0 if it has none.
func sbatLevel(b []byte) int64 {
	line, _, _ := bytes.Cut(b, []byte("\n"))
	date, ok := strings.CutPrefix(string(line), "sbat,1,")
	if n, err := strconv.ParseInt(date, 10, 64); ok && err == nil && len(date) == 10 && n > 0 {
		return n
	}
	return 0
}
