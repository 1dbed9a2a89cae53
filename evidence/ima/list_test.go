package ima

import (
	"bytes"
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/internal/cursor"
)

func both(items []item) []evidence.PCRs { return quote(items, evidence.SHA256, evidence.SHA384) }

func open(t *testing.T, items []item, quoted []evidence.PCRs) *List {
	t.Helper()
	l, err := Open(write(items), quoted, Register)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func entries(l *List) (out []Entry) {
	for _, e := range l.All() {
		out = append(out, e)
	}
	return out
}

// TestPrefix: every prefix of a list is found, and only it is returned.
func TestPrefix(t *testing.T) {
	items := host(20)
	for n := 1; n <= len(items); n++ {
		l := open(t, items, both(items[:n]))
		got := entries(l)
		if l.Len() != n || l.Uncovered() != len(items)-n || len(got) != n {
			t.Fatalf("prefix %d: got %d entries, %d yielded, %d uncovered", n, l.Len(), len(got), l.Uncovered())
		}
		if last := got[n-1].Path.String(); last != items[n-1].path {
			t.Errorf("prefix %d: ends with %s", n, last)
		}
	}
}

// TestTemplates: each template of the kernel, and one that nobody knows.
func TestTemplates(t *testing.T) {
	content := []byte("content")
	s1, s256, s384, s512, m5 := sha1.Sum(content), sha256.Sum256(content), sha512.Sum384(content), sha512.Sum512(content), md5.Sum(content)
	const path = "/usr/bin/true"
	all := []struct {
		item
		alg       string
		digest    []byte
		path      string
		signature string
	}{
		{item{template: "ima", digest: s1[:], path: path}, "sha1", s1[:], path, ""},
		{item{template: "ima", digest: s1[:], path: strings.Repeat("p", 255)}, "sha1", s1[:], strings.Repeat("p", 255), ""},
		{item{template: "ima-ng", digest: ng("sha256", s256[:]), path: path}, "sha256", s256[:], path, ""},
		{item{template: "ima-ng", digest: ng("sha384", s384[:]), path: path}, "sha384", s384[:], path, ""},
		{item{template: "ima-ng", digest: ng("sha512", s512[:]), path: path}, "sha512", s512[:], path, ""},
		{item{template: "ima-ng", digest: ng("sha1", s1[:]), path: path}, "sha1", s1[:], path, ""},
		{item{template: "ima-ng", digest: ng("md5", m5[:]), path: path}, "md5", m5[:], path, ""},
		{item{template: "ima-sig", digest: ng("sha256", s256[:]), path: path, more: [][]byte{[]byte("\x03sig")}}, "sha256", s256[:], path, "\x03sig"},
		{item{template: "ima-ngv2", digest: ng("ima:sha256", s256[:]), path: path}, "sha256", s256[:], path, ""},
		{item{template: "ima-sigv2", digest: ng("verity:sha256", s256[:]), path: path, more: [][]byte{nil}}, "", nil, path, ""},
		{item{template: "ima-buf", digest: ng("sha256", s256[:]), path: "kexec-cmdline", more: [][]byte{content}}, "sha256", s256[:], "kexec-cmdline", "content"},
		{item{template: "ima-modsig", digest: ng("sha256", s256[:]), path: path, more: [][]byte{{1}, {2}, {3}}}, "sha256", s256[:], path, "\x01"},
		{item{template: "evm-sig", digest: ng("sha256", s256[:]), path: path, more: make([][]byte, 7)}, "sha256", s256[:], path, ""},
		{item{template: "d-ng|n-ng|iuid", digest: ng("sha256", s256[:]), path: path, more: [][]byte{{0, 0}}}, "sha256", s256[:], path, "\x00\x00"},
		{item{template: "ima-ng", digest: ng("sha256", s256[:31]), path: path}, "", nil, path, ""},
		{item{template: "ima-ng", digest: ng("sm3", s256[:]), path: path}, "", nil, path, ""},
		{item{template: "ima-ng", digest: ng("sha256", s256[:]), path: "/bin/a\x00b"}, "", nil, "", ""},
		{item{template: "n-ng|d-ng", digest: []byte(path + "\x00"), path: "\xff"}, "", nil, "\xff", ""},
	}
	items := host(1)
	for _, a := range all {
		a.item.pcr = Register
		items = append(items, a.item)
	}
	got := entries(open(t, items, both(items)))[1:]
	if len(got) != len(all) {
		t.Fatalf("got %d entries", len(got))
	}
	for i, want := range all {
		e := got[i]
		if e.Alg != want.alg || !bytes.Equal(e.FileDigest, want.digest) || string(e.Path) != want.path || string(e.Signature) != want.signature ||
			string(e.Template) != want.template || e.Violation || e.PCR != Register {
			t.Errorf("%s: got %+v", want.template, e)
		}
	}
}

// TestViolation: nothing of a violation entry but its being one is proven, so
// nothing else can be looked up.
func TestViolation(t *testing.T) {
	items := host(5)
	items[3].violation = true
	e := entries(open(t, items, both(items)))[3]
	if !e.Violation || e.FileDigest != nil || e.Alg != "" || e.Signature != nil || e.Path == nil {
		t.Errorf("got %+v", e)
	}
}

// TestOtherRegisters: entries of another register are skipped, and can be asked for.
func TestOtherRegisters(t *testing.T) {
	items := host(6)
	items[2].pcr, items[4].pcr = 11, 11
	quoted := both(items)
	l := open(t, items, quoted)
	if l.Len() != 4 || l.Uncovered() != 2 {
		t.Errorf("got %d, %d", l.Len(), l.Uncovered())
	}
	for n, e := range l.All() {
		if n == 3 || n == 5 || e.PCR != Register {
			t.Errorf("entry %d of PCR %d", n, e.PCR)
		}
	}
	reads, err := Open(write(items), quoted, 11)
	if err != nil || reads.Len() != 2 {
		t.Errorf("PCR 11: got %v, %v", reads, err)
	}
	// No aggregate is to be expected in another register, so that does not explain a difference.
	quoted[0].Value[11] = make([]byte, 32)
	quoted[0].Value[11][0] = 1
	if _, err := Open(write(items), quoted, 11); !errors.Is(err, keystead.ReasonLogTruncated) {
		t.Errorf("PCR 11 not reached: got %v", err)
	}
}

// TestUncoveredTail: what follows the prefix may be anything, torn too.
func TestUncoveredTail(t *testing.T) {
	items := host(9)
	raw := write(items)
	l, err := Open(raw[:len(raw)-5], both(items[:4]), Register)
	if err != nil || l.Len() != 4 || l.Uncovered() != 4 {
		t.Errorf("got %+v, %v", l, err)
	}
}

// TestBankWithoutHash: a kernel without SHA-384 extends padded SHA-1 into that
// bank. Beside SHA-256 that is accepted and said, alone it is not.
func TestBankWithoutHash(t *testing.T) {
	items := host(8)
	items[2].violation = true
	quoted := both(items)
	padded := evidence.PCRs{Bank: evidence.SHA384}
	for _, it := range items {
		d := sha1.Sum(it.data())
		if it.violation {
			copy(d[:], ones)
			padded.Extend(Register, ones[:48])
			continue
		}
		padded.Extend(Register, append(d[:], make([]byte, 28)...))
	}
	quoted[1] = padded
	l := open(t, items, quoted)
	if !slices.Equal(l.Banks(), []evidence.Bank{evidence.SHA256}) {
		t.Errorf("got %v", l.Banks())
	}
	refused(t, "padded alone", write(items), quoted[1:], keystead.ReasonDigestWeak, "SHA-1 digests padded")
	quoted[1] = both(items[:7])[1]
	refused(t, "another value", write(items), quoted, keystead.ReasonPCRMismatch, "where bank sha256 has its value")
	if l := open(t, items, both(items)); len(l.Banks()) != 2 {
		t.Errorf("got %v", l.Banks())
	}
}

func refused(t *testing.T, name string, raw []byte, quoted []evidence.PCRs, reason keystead.Reason, words string) {
	t.Helper()
	l, err := Open(raw, quoted, Register)
	var d *keystead.DenyError
	if !errors.As(err, &d) || len(d.Findings) != 1 || d.Findings[0].Reason != reason || !strings.Contains(d.Error(), words) || l != nil {
		t.Errorf("%s: want %s with %q, got %v", name, reason, words, err)
	}
}

// TestAttacks: a list of 60 entries, all quoted, is edited in every way that we
// could think of; the words say what is known.
func TestAttacks(t *testing.T) {
	const n = 60
	truth := host(n)
	truth[30].violation = true
	quoted := both(truth)
	edit := func(f func(items []item) []item) []byte { return write(f(slices.Clone(truth))) }
	raw := write(truth)
	at := func(i int) int { return len(write(truth[:i])) } // where entry i starts
	patch := func(off int, b ...byte) []byte { return slices.Concat(raw[:off], b, raw[off+len(b):]) }
	dataAt := func(i int) int { return at(i) + 4 + 20 + 4 + len("ima-sig") + 4 }

	for name, tc := range map[string]struct {
		raw    []byte
		reason keystead.Reason
		words  string
	}{
		"path changed":                  {patch(dataAt(20)+60, 'X'), keystead.ReasonLogAltered, "entry 21"},
		"digest changed":                {patch(dataAt(20)+20, 0xff, 0xff), keystead.ReasonLogAltered, "entry 21"},
		"hash name changed":             {patch(dataAt(20)+4+3, '5', '1', '2'), keystead.ReasonLogAltered, "entry 21"},
		"path changed, hash recomputed": {edit(func(i []item) []item { i[20].path = "/x"; return i }), keystead.ReasonLogTruncated, "not reached after 60 entries"},
		"digest changed, recomputed":    {edit(func(i []item) []item { i[20].digest = truth[21].digest; return i }), keystead.ReasonLogTruncated, "changed"},
		"two swapped":                   {edit(func(i []item) []item { i[40], i[41] = i[41], i[40]; return i }), keystead.ReasonLogAltered, "entries 41 and 42 are in the wrong order"},
		"last two swapped":              {edit(func(i []item) []item { i[58], i[59] = i[59], i[58]; return i }), keystead.ReasonLogAltered, "entries 59 and 60 are in the wrong order"},
		"moved far":                     {edit(func(i []item) []item { return append(append(i[:5], i[6:]...), truth[5]) }), keystead.ReasonLogTruncated, "out of order"},
		"one removed":                   {edit(func(i []item) []item { return slices.Delete(i, 12, 13) }), keystead.ReasonLogTruncated, "missing"},
		"head removed":                  {edit(func(i []item) []item { return i[1:] }), keystead.ReasonLogAltered, "the list's head is missing"},
		"one inserted":                  {edit(func(i []item) []item { return slices.Insert(i, 12, sig("/bin/ok", "ok")) }), keystead.ReasonLogAltered, "entry 13 was never measured"},
		"one doubled":                   {edit(func(i []item) []item { return slices.Insert(i, 12, truth[12]) }), keystead.ReasonLogAltered, "was never measured"},
		"cut after an entry":            {raw[:at(50)], keystead.ReasonLogTruncated, "not reached after 50 entries"},
		"only the head":                 {raw[:at(1)], keystead.ReasonLogTruncated, "not reached after 1 entries"},
		"cut inside an entry":           {raw[:at(50)+30], keystead.ReasonLogTruncated, "ends with a whole entry"},
		"violation set":                 {edit(func(i []item) []item { i[44].violation = true; return i }), keystead.ReasonLogAltered, "entry 45 is marked as a violation"},
		"violation cleared":             {edit(func(i []item) []item { i[30].violation = false; return i }), keystead.ReasonLogAltered, "entry 31 is marked as a violation"},
		"moved to another register":     {edit(func(i []item) []item { i[44].pcr = 11; return i }), keystead.ReasonLogTruncated, "not reached after 59 entries"},
		"another host's list":           {edit(func([]item) []item { return append(host(3), sig("/bin/other", "other")) }), keystead.ReasonLogTruncated, "not reached after 4"},
	} {
		refused(t, name, tc.raw, quoted, tc.reason, tc.words)
		refused(t, name+" in sha384", tc.raw, quoted[1:], tc.reason, tc.words)
	}
	refused(t, "no list", nil, quoted, keystead.ReasonEvidenceMissing, "want a measurement list")
	refused(t, "not quoted", raw, []evidence.PCRs{{Bank: evidence.SHA256}}, keystead.ReasonEvidenceMissing, "not quoted")
	refused(t, "wrong bank", raw, quote(truth, evidence.SHA1), keystead.ReasonEvidenceMissing, "not quoted")
	mixed := []evidence.PCRs{{Bank: evidence.SHA256, Value: quoted[1].Value}}
	refused(t, "values of another bank", raw, mixed, keystead.ReasonBankUnaccepted, "sha256")
	zero := evidence.PCRs{Bank: evidence.SHA256}
	zero.Value[Register] = make([]byte, 32)
	refused(t, "nothing measured", raw, []evidence.PCRs{zero}, keystead.ReasonEvidenceMissing, "the kernel measured nothing")
	if _, err := Open(raw, quoted, 24); !errors.Is(err, keystead.ReasonEvidenceMissing) {
		t.Errorf("PCR 24: got %v", err)
	}
}

// TestHarmless: edits that change nothing that is proven change nothing that is said.
func TestHarmless(t *testing.T) {
	truth := host(10)
	quoted := both(truth)
	want := entries(open(t, truth, quoted))
	renamed := slices.Clone(truth)
	for i := range renamed {
		renamed[i].template = "ima-buf"
	}
	rehashed := write(truth)
	rehashed[4] ^= 1 // the SHA-1 template hash of the first entry
	for name, raw := range map[string][]byte{
		"template renamed":  write(renamed),
		"appended":          append(write(truth), sig("/bin/late", "late").bytes()...),
		"other SHA-1 hash":  rehashed,
		"as it was written": write(truth),
	} {
		l, err := Open(raw, quoted, Register)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		for i, e := range entries(l) {
			if !bytes.Equal(e.FileDigest, want[i].FileDigest) || !bytes.Equal(e.Path, want[i].Path) || e.Alg != want[i].Alg || e.Violation {
				t.Errorf("%s: entry %d is %+v", name, i, e)
			}
		}
	}
}

// TestMalformed: bytes that do not parse are refused with offset and field.
func TestMalformed(t *testing.T) {
	items := host(3)
	quoted := both(items)
	raw := write(items[:2])
	head := slices.Concat(u32(10), make([]byte, 20))
	for name, tc := range map[string]struct {
		tail  []byte
		field string
	}{
		"register 24":         {slices.Concat(u32(24), make([]byte, 60)), "PCR"},
		"huge template name":  {slices.Concat(head, u32(1<<31)), "template name"},
		"long template name":  {slices.Concat(head, u32(257), make([]byte, 300)), "template name"},
		"huge template data":  {slices.Concat(head, u32(3), []byte("abc"), u32(1<<31-1)), "template data"},
		"old path too long":   {slices.Concat(head, u32(3), []byte("ima"), head[:20], u32(256), make([]byte, 256)), "path"},
		"old path with zeros": {slices.Concat(head, u32(3), []byte("ima"), head[:20], u32(2), []byte("a\x00")), "path"},
	} {
		_, err := Open(slices.Concat(raw, tc.tail), quoted, Register)
		var f *keystead.FormatError
		if !errors.As(err, &f) || f.Field != tc.field || f.Format != "ima" || f.Offset < int64(len(raw)) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	// A new record called "ima" does not read as one of the old layout.
	renamed := bytes.Replace(write(items), []byte("\x07\x00\x00\x00ima-sig"), []byte("\x03\x00\x00\x00ima"), 1)
	if _, err := Open(renamed, quoted, Register); err == nil {
		t.Error("renamed to the old template: want a refusal")
	}
}

// TestBounds: a list of as many entries as fit costs no memory for each.
func TestBounds(t *testing.T) {
	tiny := item{pcr: 11, template: "", digest: nil}
	record := slices.Concat(u32(tiny.pcr), make([]byte, 20), u32(0), u32(0))
	items := host(2)
	raw := append(bytes.Repeat(record, 100_000), write(items)...)
	quoted := both(items)
	if n := testing.AllocsPerRun(1, func() {
		if l, err := Open(raw, quoted, Register); err != nil || l.Uncovered() != 100_000 {
			t.Fatal(l, err)
		}
	}); n > 20 {
		t.Errorf("%v allocations", n)
	}
	l := open(t, items, quoted)
	if n := testing.AllocsPerRun(10, func() {
		for range l.All() {
		}
	}); n > 3 {
		t.Errorf("All: %v allocations", n)
	}
}

func TestPathText(t *testing.T) {
	for p, want := range map[string]string{
		"/usr/bin/true":                   "/usr/bin/true",
		"/tmp/a\x1b[2J\nb\u202e\xff\"":    `/tmp/a\x1b[2J\nb\u202e\xff\"`,
		"/größe":                          "/größe",
		strings.Repeat("a", 5000):         strings.Repeat("a", 4096) + "…",
		strings.Repeat("\x01", 5000)[:10]: strings.Repeat(`\x01`, 10),
	} {
		if got := Path(p).String(); got != want {
			t.Errorf("%q: got %q", p, got)
		}
	}
}

func TestBootAggregate(t *testing.T) {
	truth := host(4)
	quoted := both(truth)
	check := func(items []item, covered []evidence.PCRs) error {
		return open(t, items, both(items)).CheckBootAggregate(covered)
	}
	if err := check(truth, quoted); err != nil {
		t.Fatal(err)
	}
	later := both(truth)
	later[0].Extend(9, make([]byte, 32))
	partial := both(truth)
	partial[0].Value[8] = nil
	sha1Aggregate, unknown, violation, other := slices.Clone(truth), slices.Clone(truth), slices.Clone(truth), slices.Clone(truth)
	sum := sha1.New() // right in itself, but of SHA-1
	for i := range 10 {
		sum.Write(bytes.Repeat([]byte{byte(i)}, 20))
	}
	sha1Aggregate[0].digest = ng("sha1", sum.Sum(nil))
	unknown[0].digest = ng("sm3", make([]byte, 32))
	violation[0].violation = true
	other[0] = sig("/init", "init")
	for name, tc := range map[string]struct {
		items   []item
		covered []evidence.PCRs
		reason  keystead.Reason
	}{
		"extended after the kernel started": {truth, later, keystead.ReasonBootAggregate},
		"register not quoted":               {truth, partial, keystead.ReasonEvidenceMissing},
		"bank not quoted":                   {truth, quoted[1:], keystead.ReasonEvidenceMissing},
		"SHA-1 aggregate":                   {sha1Aggregate, quoted, keystead.ReasonBootAggregate},
		"aggregate of no known hash":        {unknown, quoted, keystead.ReasonBootAggregate},
		"marked as violation":               {violation, quoted, keystead.ReasonBootAggregate},
		"SHA-1 aggregate and quote":         {sha1Aggregate, quote(truth, evidence.SHA1, evidence.SHA256), keystead.ReasonBootAggregate},
		"another first entry":               {other, quoted, keystead.ReasonBootAggregate},
	} {
		if err := check(tc.items, tc.covered); !errors.Is(err, tc.reason) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func FuzzOpen(f *testing.F) {
	items := host(4)
	items[2].violation = true
	items = append(items, item{pcr: Register, template: "ima", digest: make([]byte, 20), path: "/bin/old"}, item{pcr: 11, template: "ima-ng", digest: ng("sha1", make([]byte, 20)), path: "/etc/f"})
	raw := write(items)
	f.Add(raw, uint8(6))
	f.Add(raw[:len(raw)-3], uint8(6))
	f.Add(raw[:200], uint8(1))
	f.Add(slices.Concat(u32(10), make([]byte, 20), u32(1<<31)), uint8(1))
	f.Fuzz(func(t *testing.T, raw []byte, n uint8) {
		var quick, slow record
		c := cursor.New(format, binary.LittleEndian, raw)
		if size := quick.quick(raw); size > 0 && (slow.slow(c) != nil || c.Offset() != size || !reflect.DeepEqual(quick, slow)) {
			t.Fatalf("quick: %d bytes, %+v; slow: %d bytes, %v, %+v", size, quick, c.Offset(), c.Err(), slow)
		}
		// Whatever parses is quoted up to entry n, so that the accepting path is fuzzed as well.
		quoted := evidence.PCRs{Bank: evidence.SHA256}
		covered := 0
		for _, rec := range records(raw) {
			if rec.pcr != Register || covered == int(n) {
				continue
			}
			d := ones[:32]
			if !rec.violation() {
				s := sha256.Sum256(rec.data)
				if rec.old {
					s = sha256.Sum256(append(append(bytes.Clone(rec.data), rec.path...), make([]byte, 256-len(rec.path))...))
				}
				d = s[:]
			}
			quoted.Extend(Register, d)
			covered++
		}
		if covered == 0 {
			quoted.Value[Register] = ones[:32]
		}
		l, err := Open(raw, []evidence.PCRs{quoted}, Register)
		var fe *keystead.FormatError
		var de *keystead.DenyError
		switch {
		case err == nil:
			got := 0
			for _, e := range l.All() {
				if _ = e.Path.String(); e.FileDigest != nil && e.Alg == "" {
					t.Fatal("a digest without its hash")
				}
				got++
			}
			if got != covered || l.Len() != covered {
				t.Fatalf("covered %d, got %d and %d", covered, got, l.Len())
			}
		case errors.As(err, &fe):
		case !errors.As(err, &de) || covered > 0:
			t.Fatalf("%d entries: %v", covered, err)
		}
	})
}
