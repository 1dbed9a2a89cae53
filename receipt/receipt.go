package receipt

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"strconv"
	"strings"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/internal/cursor"
)

// Bounds of a receipt.
const (
	MaxReceipt = 8 << 20 // bytes
	MaxChain   = 4096    // genesis and roster entries in one receipt
	maxPath    = 63      // hashes of an inclusion proof
)

const (
	proofLine    = "c2sp.org/tlog-proof@v1"
	extraVersion = 1 // of what the extra line holds; docs/spec/receipt.md
)

// Receipt proves one entry: the entry itself, its place in the tree, and the
// chain of entries that says who may sign the tree. Its text form is a C2SP
// tlog-proof whose extra line holds entry and chain (docs/spec/receipt.md).
type Receipt struct {
	Entry      []byte   // the leaf
	Chain      [][]byte // genesis entry, then every roster entry up to the checkpoint's; those the verifier knows may be left out
	Index      uint64   // of the leaf in the tree
	Path       []keystead.Digest
	Checkpoint []byte // signed note
}

// Bytes returns the text form.
func (r *Receipt) Bytes() []byte {
	extra := append(make([]byte, 0, 64+len(r.Entry)), extraVersion)
	extra = cursor.AppendSized32(extra, r.Entry)
	extra = binary.BigEndian.AppendUint16(extra, uint16(len(r.Chain)))
	for _, e := range r.Chain {
		extra = cursor.AppendSized32(extra, e)
	}
	b := make([]byte, 0, r.Size())
	b = append(b, proofLine+"\nextra "...)
	b = base64.StdEncoding.AppendEncode(b, extra)
	b = append(b, "\nindex "...)
	b = strconv.AppendUint(b, r.Index, 10)
	b = appendHashes(append(b, '\n'), r.Path)
	return append(append(b, '\n'), r.Checkpoint...)
}

// Size bounds how long the text form is, in bytes, before it is made.
func (r *Receipt) Size() int {
	extra := 16 + len(r.Entry)
	for _, e := range r.Chain {
		extra += 4 + len(e)
	}
	return 128 + base64.StdEncoding.EncodedLen(extra) + 45*len(r.Path) + len(r.Checkpoint)
}

func appendHashes(b []byte, hashes []keystead.Digest) []byte {
	for i := range hashes {
		b = append(base64.StdEncoding.AppendEncode(b, hashes[i][:]), '\n')
	}
	return b
}

// Parse reads the text form and checks syntax and bounds only.
func Parse(text []byte) (*Receipt, error) {
	l := lines{format: "receipt", rest: text}
	if len(text) > MaxReceipt {
		l.fail("size", strconv.Itoa(len(text))+" bytes, at most "+strconv.Itoa(MaxReceipt)+" are accepted")
	}
	if got := l.line("format"); got != proofLine {
		l.fail("format", "the first line is not "+proofLine)
	}
	r := &Receipt{}
	l.extra(r)
	r.Index = l.number("index")
	r.Path = l.hashes("inclusion proof", maxPath)
	if l.err != nil {
		return nil, l.err
	}
	r.Checkpoint = l.rest
	if _, err := ParseCheckpoint(r.Checkpoint); err != nil {
		return nil, err
	}
	return r, nil
}

// hashes reads base64 hashes up to the blank line.
func (l *lines) hashes(field string, limit int) []keystead.Digest {
	n := 0
	for rest := l.rest; len(rest) > 0 && rest[0] != '\n' && n <= limit; n++ {
		i := bytes.IndexByte(rest, '\n')
		if i < 0 {
			break
		}
		rest = rest[i+1:]
	}
	if n > limit {
		l.fail(field, "has more than "+strconv.Itoa(limit)+" hashes")
		return nil
	}
	out := make([]keystead.Digest, n)
	for i := range out {
		out[i] = l.hash(field, l.line(field))
	}
	if l.line("blank line") != "" {
		l.fail("blank line", "stands not where it should, after the hashes")
	}
	return out
}

// extra reads the extra line: entry and chain.
func (l *lines) extra(r *Receipt) {
	raw, err := base64.StdEncoding.Strict().DecodeString(l.value("extra"))
	if err != nil || l.err != nil {
		l.fail("extra", "is not base64")
		return
	}
	c := cursor.New("receipt extra", binary.BigEndian, raw)
	if v := c.U8("version"); v != extraVersion {
		c.Fail("version", "%d is not known; this build knows %d", v, extraVersion)
	}
	r.Entry = c.Sized32(MaxEntry, "entry")
	n := int(c.U16("chain length"))
	if n > MaxChain || n > c.Len()/4 {
		c.Fail("chain length", "%d entries, at most %d are accepted and %d fit", n, MaxChain, c.Len()/4)
	}
	for i := 0; i < n && c.Err() == nil; i++ {
		r.Chain = append(r.Chain, c.Sized32(HeaderSize+maxNote, "chain entry"))
	}
	c.End()
	if err := c.Err(); err != nil && l.err == nil {
		l.err = err
	}
}

// Consistency proves that the tree of one checkpoint is the start of another's.
type Consistency struct {
	Chain    [][]byte // as in a Receipt, up to the newer checkpoint's roster
	Path     []keystead.Digest
	Old, New []byte // signed checkpoints
}

const consistencyLine = "keystead-consistency/1"

// Bytes returns the text form: the first line, the chain, the hashes, and the two
// checkpoints, old one first, each after a blank line.
func (p *Consistency) Bytes() []byte {
	b := []byte(consistencyLine + "\n")
	for _, e := range p.Chain {
		b = append(base64.StdEncoding.AppendEncode(append(b, "chain "...), e), '\n')
	}
	b = appendHashes(b, p.Path)
	b = append(append(b, '\n'), p.Old...)
	return append(append(b, '\n'), p.New...)
}

// ParseConsistency reads the text form and checks syntax and bounds only.
func ParseConsistency(text []byte) (*Consistency, error) {
	l := lines{format: "consistency", rest: text}
	if len(text) > MaxReceipt {
		l.fail("size", strconv.Itoa(len(text))+" bytes, at most "+strconv.Itoa(MaxReceipt)+" are accepted")
	}
	if l.line("format") != consistencyLine {
		l.fail("format", "the first line is not "+consistencyLine)
	}
	p := &Consistency{}
	for l.err == nil && bytes.HasPrefix(l.rest, []byte("chain ")) && len(p.Chain) <= MaxChain {
		e, err := base64.StdEncoding.Strict().DecodeString(l.value("chain"))
		if err != nil {
			l.fail("chain", "is not base64")
		}
		p.Chain = append(p.Chain, e)
	}
	p.Path = l.hashes("consistency proof", 2*maxPath)
	if l.err != nil {
		return nil, l.err
	}
	// Each checkpoint has one blank line of its own; the second blank line parts the two.
	body, sigs, _ := bytes.Cut(l.rest, []byte("\n\n"))
	own, _, found := bytes.Cut(sigs, []byte("\n\n"))
	end := len(body) + 2 + len(own) + 1
	if !found || !strings.HasPrefix(string(l.rest), originPrefix) {
		l.fail("checkpoints", "wants two, parted by a blank line")
		return nil, l.err
	}
	p.Old, p.New = l.rest[:end], l.rest[end+1:]
	for _, c := range [][]byte{p.Old, p.New} {
		if _, err := ParseCheckpoint(c); err != nil {
			return nil, err
		}
	}
	return p, nil
}
