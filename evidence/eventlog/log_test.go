package eventlog

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/evidence"
)

func open(t *testing.T, items []item, covered []evidence.PCRs) *Log {
	t.Helper()
	l, err := Open(write(items), covered)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestBoot(t *testing.T) {
	items := boot()
	l := open(t, items, both(items))
	c := l.Boot()
	sum := func(s string) string {
		d := keystead.Sum([]byte(s))
		return d.String()
	}
	if !c.SecureBoot || !c.SeparatorsAll || c.Firmware != "Firmware 1.2" || c.Events != int64(len(items)) || c.Uncovered != 0 ||
		!slices.Equal(c.Loaded, []string{sum("driver"), sum("kernel")}) {
		t.Errorf("got %+v", c)
	}
	for i, e := range l.Events() {
		want := items[i]
		if e.Number != i+1 || e.PCR != want.pcr || e.Type != want.typ || !bytes.Equal(e.Data, want.data) || !bytes.Equal(e.Digest, want.digest(l.Bank())) {
			t.Errorf("event %d: got %+v", i, e)
		}
		if bound := l.Bound(&e); bound != (want.hashed == nil) {
			t.Errorf("event %d (%v): bound is %v", i, e.Type, bound)
		}
	}
}

// TestUncovered: only events of quoted registers come back, and no claim rests on others.
func TestUncovered(t *testing.T) {
	items := boot()
	items = append(items, text(10, IPL, "the kernel's"), text(11, IPL, "systemd's"))
	covered := both(items)
	for i := range covered {
		covered[i].Value[7], covered[i].Value[4] = nil, nil
	}
	covered[0].Value[11] = make([]byte, 32) // goes on after the log, and is not judged here
	l := open(t, items, covered)
	c := l.Boot()
	if c.SecureBoot || c.SeparatorsAll || len(c.Loaded) != 1 {
		t.Errorf("got %+v", c)
	}
	if want := 7 + 2; l.Uncovered() != want || len(l.Events()) != len(items)-want {
		t.Errorf("got %d events, %d uncovered", len(l.Events()), l.Uncovered())
	}
	for _, e := range l.Events() {
		if e.PCR == 7 || e.PCR == 4 || e.PCR == 10 || e.PCR == 11 || !l.Covered(e.PCR) {
			t.Errorf("event of PCR %d", e.PCR)
		}
	}
	if _, err := l.Kernel(); !errors.Is(err, keystead.ReasonEvidenceMissing) {
		t.Errorf("Kernel without PCR 4: got %v", err)
	}
}

// TestInitialValue: StartupLocality and an H-CRTM settle where PCR 0 starts.
func TestInitialValue(t *testing.T) {
	locality := item{pcr: 0, typ: NoAction, data: append([]byte(localityEvent), 3)}
	items := append([]item{locality}, boot()...)
	open(t, items, both(items))
	wrong := slices.Clone(items)
	wrong[0].data = append([]byte(localityEvent), 0)
	refused(t, "another locality", write(wrong), both(items), keystead.ReasonPCRMismatch, "PCR 0")
	for name, l := range map[string][]item{
		"locality 2": append([]item{{pcr: 0, typ: NoAction, data: append([]byte(localityEvent), 2)}}, boot()...),
		"twice":      append([]item{locality, locality}, boot()...),
		"late":       append(boot(), locality),
	} {
		malformed(t, name, write(l), both(items), "StartupLocality")
	}
	hcrtm := append([]item{{pcr: 0, typ: EFIHCRTM, data: []byte("HCRTM"), hashed: []byte("contents")}}, boot()...)
	covered := quote(append([]item{{typ: NoAction, data: append([]byte(localityEvent), 4)}}, hcrtm...), evidence.SHA256)
	open(t, hcrtm, covered)
}

func refused(t *testing.T, name string, raw []byte, covered []evidence.PCRs, reason keystead.Reason, words string) {
	t.Helper()
	l, err := Open(raw, covered)
	var d *keystead.DenyError
	if !errors.As(err, &d) || l != nil {
		t.Errorf("%s: want %s, got %v", name, reason, err)
		return
	}
	for _, f := range d.Findings {
		if f.Reason != reason {
			t.Errorf("%s: want %s, got %v", name, reason, f)
		}
	}
	if !strings.Contains(d.Error(), words) {
		t.Errorf("%s: want %q, got %v", name, words, d)
	}
}

func malformed(t *testing.T, name string, raw []byte, covered []evidence.PCRs, field string) {
	t.Helper()
	_, err := Open(raw, covered)
	var f *keystead.FormatError
	if !errors.As(err, &f) || f.Field != field {
		t.Errorf("%s: want a FormatError in %q, got %v", name, field, err)
	}
}

// TestAttacks: a whole boot is edited in every way that we could think of.
func TestAttacks(t *testing.T) {
	truth := boot()
	covered := quote(truth, evidence.SHA256)
	raw := write(truth)
	edit := func(f func(i []item) []item) []byte { return write(f(slices.Clone(truth))) }
	at := func(i int) int { return len(write(truth[:i])) }
	kernel := where(truth, func(it item) bool { return string(it.hashed) == "kernel" })
	blob := where(truth, func(it item) bool { return it.typ == EFIFirmwareBlob })
	action := where(truth, func(it item) bool { return it.typ == EFIAction })
	nine := where(truth, func(it item) bool { return it.typ == EventTag }) // the stub's first

	for name, tc := range map[string]struct {
		raw    []byte
		reason keystead.Reason
		words  string
	}{
		"another kernel":            {edit(func(i []item) []item { i[kernel].hashed = []byte("evil"); return i }), keystead.ReasonPCRMismatch, "PCR 4, bank sha256"},
		"kernel removed":            {edit(func(i []item) []item { return slices.Delete(i, kernel, kernel+1) }), keystead.ReasonPCRMismatch, "PCR 4"},
		"kernel in another PCR":     {edit(func(i []item) []item { i[kernel].pcr = 10; return i }), keystead.ReasonPCRMismatch, "PCR 4"},
		"event made EV_NO_ACTION":   {edit(func(i []item) []item { i[blob].typ = NoAction; return i }), keystead.ReasonPCRMismatch, "PCR 0"},
		"two swapped":               {edit(func(i []item) []item { i[nine], i[nine+1] = i[nine+1], i[nine]; return i }), keystead.ReasonLogAltered, "are in the wrong order"},
		"event inserted":            {edit(func(i []item) []item { return slices.Insert(i, nine+1, image(9, "evil")) }), keystead.ReasonLogAltered, "was never measured"},
		"event appended":            {edit(func(i []item) []item { return append(i, image(4, "evil")) }), keystead.ReasonLogAltered, "only the first 3 of 4 events lead to"},
		"register's events removed": {edit(func(i []item) []item { return slices.DeleteFunc(i, func(it item) bool { return it.pcr == 9 }) }), keystead.ReasonPCRMismatch, "PCR 9"},
		"cut before the separators": {raw[:at(action)], keystead.ReasonLogTruncated, "PCR 0"},
		"cut before the kernel":     {raw[:at(kernel)], keystead.ReasonLogTruncated, "lacks the events that end a boot"},
		"cut before the last event": {raw[:at(len(truth)-1)], keystead.ReasonLogTruncated, "PCR 5"},
		"cut inside an event":       {raw[:at(kernel)+20], keystead.ReasonLogTruncated, "event 17"},
		"cut inside the header":     {raw[:30], keystead.ReasonLogTruncated, "event 0"},
		"only the header":           {header(algs...), keystead.ReasonLogTruncated, "PCR 0"},
		"text of an action changed": {edit(func(i []item) []item { i[action].hashed = i[action].data; i[action].data = []byte("nothing"); return i }), keystead.ReasonDigestInvalid, "EV_EFI_ACTION"},
		"no log":                    {nil, keystead.ReasonEvidenceMissing, "event log"},
		"bank not there":            {slices.Concat(header(evidence.SHA1), truth[0].bytes(evidence.SHA1)), keystead.ReasonEvidenceMissing, "sha1"},
		"old format":                {slices.Concat([]byte{0, 0, 0, 0, 4, 0, 0, 0}, make([]byte, 20), []byte{4, 0, 0, 0, 0, 0, 0, 0}), keystead.ReasonEvidenceMissing, "a log with sha1"},
	} {
		refused(t, name, tc.raw, covered, tc.reason, tc.words)
	}
	off := boot()
	off[2] = secureBoot(0)
	refused(t, "secure boot turned on", raw, quote(off, evidence.SHA256), keystead.ReasonPCRMismatch, "PCR 7")
	relabelled := slices.Clone(off)
	relabelled[2].data, relabelled[2].hashed = secureBootVariable(1), secureBootVariable(0)
	refused(t, "secure boot relabelled", write(relabelled), quote(off, evidence.SHA256), keystead.ReasonDigestInvalid, "EV_EFI_VARIABLE_DRIVER_CONFIG")
	sha1 := quote(truth, evidence.SHA1)
	refused(t, "SHA-1 only", raw, sha1, keystead.ReasonBankUnaccepted, "want sha256 or sha384")
	refused(t, "nothing covered", raw, nil, keystead.ReasonBankUnaccepted, "sha256 or sha384")
	refused(t, "unknown bank", raw, []evidence.PCRs{{Bank: 0x12}}, keystead.ReasonBankUnaccepted, "alg-0x0012")
	refused(t, "bank twice", raw, append(covered, covered...), keystead.ReasonBankUnaccepted, "each once")
}

// TestEveryBank: each covered bank must replay, not only the first.
func TestEveryBank(t *testing.T) {
	items := boot()
	covered := both(items)
	covered[1].Value[3] = bytes.Repeat([]byte{7}, 48)
	refused(t, "second bank", write(items), covered, keystead.ReasonPCRMismatch, "PCR 3, bank sha384")
	raw := write(items)
	i := bytes.Index(raw, items[1].digest(evidence.SHA384))
	raw[i] ^= 1
	refused(t, "digest of the second bank", raw, both(items), keystead.ReasonPCRMismatch, "PCR 0, bank sha384")
	l := open(t, items, quote(items, evidence.SHA1, evidence.SHA384))
	if l.Bank() != evidence.SHA384 {
		t.Errorf("the digests are of bank %v", l.Bank())
	}
}

func TestMalformed(t *testing.T) {
	items := boot()
	covered := both(items)
	head := header(algs...)
	one := items[0].bytes(algs...)
	with := func(off int, b ...byte) []byte {
		e := bytes.Clone(one)
		copy(e[off:], b)
		return append(bytes.Clone(head), e...)
	}
	spec := func(off int, b ...byte) []byte {
		h := bytes.Clone(head)
		copy(h[32+off:], b)
		return append(h, one...)
	}
	for name, tc := range map[string]struct {
		raw   []byte
		field string
	}{
		"register 24":             {with(0, 24), "PCR"},
		"too many digests":        {with(8, 4), "number of digests"},
		"digest bomb":             {with(8, 0xff, 0xff, 0xff, 0xff), "number of digests"},
		"undeclared algorithm":    {with(12, 0x12), "digest algorithm"},
		"a bank's digest twice":   {with(12+22+34, 0x0b), "digest"},
		"huge event":              {with(len(one)-len(items[0].data)-4, 0xff, 0xff, 0xff, 0x7f), "event data"},
		"a bank's digest missing": {append(bytes.Clone(head), items[0].bytes(evidence.SHA256)...), "digests"},
		"version 1":               {spec(21, 1), "version"},
		"no algorithms":           {spec(24, 0), "number of algorithms"},
		"many algorithms":         {spec(24, 17), "number of algorithms"},
		"wrong digest size":       {spec(30, 21), "digest size"},
		"algorithm twice":         {spec(32, 4, 0, 20, 0), "algorithm"},
		"vendor data too long":    {spec(40, 1), "vendor data"},
		"huge header":             {append(bytes.Clone(head[:28]), 0xff, 0xff, 0xff, 0xff), "header data"},
	} {
		malformed(t, name, tc.raw, covered, tc.field)
	}
	malformed(t, "log over its bound", make([]byte, evidence.MaxEventLog+1), covered, "whole")
}

func FuzzOpen(f *testing.F) {
	raw := write(boot())
	f.Add(raw)
	f.Add(raw[:len(raw)-9])
	f.Add(write(append([]item{{typ: NoAction, data: append([]byte(localityEvent), 3)}}, text(8, IPL, "grub_cmd: linux"))))
	f.Add(slices.Concat([]byte{0, 0, 0, 0, 4, 0, 0, 0}, make([]byte, 20), []byte{4, 0, 0, 0, 0, 0, 0, 0}))
	f.Fuzz(func(t *testing.T, raw []byte) {
		// Whatever parses is quoted, so that the accepting path is fuzzed as well.
		covered := evidence.PCRs{Bank: evidence.SHA256}
		p := newParser(raw, []evidence.Bank{evidence.SHA256})
		var rec record
		if p.header() == nil {
			for p.more() && p.next(1, &rec) == nil {
				if rec.typ != NoAction && rec.digest[0] != nil {
					covered.Extend(int(rec.pcr), rec.digest[0])
				}
			}
		}
		l, err := Open(raw, []evidence.PCRs{covered})
		var fe *keystead.FormatError
		var de *keystead.DenyError
		switch {
		case err == nil:
			l.Boot()
			_, _ = l.Kernel()
		case !errors.As(err, &fe) && !errors.As(err, &de):
			t.Fatal(err)
		}
	})
}
