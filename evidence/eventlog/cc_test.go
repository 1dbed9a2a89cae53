package eventlog

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/internal/chain"
	"github.com/keystead/keystead/internal/samples"
)

// ccSample returns a recorded log of a TDX guest and its RTMRs, from the module whose
// test data they are.
func ccSample(t testing.TB) (log []byte, rtmr [RTMRs][]byte) {
	t.Helper()
	read := func(name string) []byte { return samples.Read(t, samples.TDXGuest, "testing/testdata/ccel/"+name) }
	quote := read("cos-113-tdx-quote.dat") // header 48, RTMR 0 at 328 of the TD report
	for i := range rtmr {
		rtmr[i] = quote[48+328+48*i:][:48]
	}
	return read("ccel_data.dat"), rtmr
}

// TestRealCCLog: a recorded TDX guest's log leads to the registers of its quote. Its
// Secure Boot is off: the variable has no value.
func TestRealCCLog(t *testing.T) {
	raw, rtmr := ccSample(t)
	c, err := OpenCC(raw, rtmr)
	if err != nil {
		t.Fatal(err)
	}
	b := c.Boot()
	if b.Events < 30 || b.SecureBoot || !b.SeparatorsAll || len(b.Loaded) == 0 || len(c.Digests(2)) == 0 {
		t.Errorf("got %+v, %d digests in RTMR 2", b, len(c.Digests(2)))
	}
	text := strings.Join(c.Text(), "\n")
	if !strings.Contains(text, "cros_efi") {
		t.Errorf("no kernel command line among %q", text)
	}
}

// replayed gives the registers that a recorded log without its quote leads to.
func replayed(t testing.TB, raw []byte) (rtmr [RTMRs][]byte) {
	t.Helper()
	p := newParser(raw, []evidence.Bank{evidence.SHA384})
	if err := p.header(); err != nil {
		t.Fatal(err)
	}
	var state [RTMRs]chain.Value
	var rec record
	for n := 1; p.more() && !p.padding(); n++ {
		if err := p.next(n, &rec); err != nil {
			t.Fatal(err)
		}
		if rec.typ != NoAction && rec.pcr > 0 && rec.pcr <= RTMRs {
			state[rec.pcr-1].Extend(evidence.SHA384, rec.digest[0])
		}
	}
	for i := range rtmr {
		rtmr[i] = bytes.Clone(state[i][:evidence.SHA384.Size()])
	}
	return rtmr
}

// TestRealCCKernel: what a real TD's EFI stub measured into RTMR 2 is the command line and
// the initrd that GRUB measured there before; and where GRUB started a kernel without its
// stub, nothing says what that was given.
func TestRealCCKernel(t *testing.T) {
	raw := samples.Read(t, "github.com/google/go-eventlog", "testdata/eventlogs/ccel/gdc-tdx.bin")
	c, err := OpenCC(raw, replayed(t, raw))
	if err != nil {
		t.Fatal(err)
	}
	k, err := c.Kernel()
	if err != nil {
		t.Fatal(err)
	}
	var line string
	for _, text := range c.Text() {
		if strings.HasPrefix(text, "/vmlinuz-") {
			line = "BOOT_IMAGE=" + text
		}
	}
	var initrd keystead.Measured
	for e := range c.log.of(2) {
		if bytes.HasPrefix(e.Data, []byte("/initrd.img-")) {
			initrd = keystead.MeasuredBytes(e.Digest)
		}
	}
	if !k.Given(line) || k.Initrd != initrd || initrd.IsZero() || len(k.Loaders) != 1 || len(k.Before) < 20 || !strings.HasPrefix(c.Place(k.Initrd, 2), " (RTMR 2, event ") {
		t.Errorf("%q, %+v, at%s", line, k, c.Place(k.Initrd, 2))
	}
	if b := c.Boot(); len(b.Loaded) != 2 || b.Loaded[1] != k.Image.String() {
		t.Errorf("loaded %v", b.Loaded) // shim and GRUB, and neither the partition table nor the firmware's texts
	}
	raw, rtmr := ccSample(t)
	if c, err = OpenCC(raw, rtmr); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Kernel(); !errors.Is(err, keystead.ReasonEvidenceMissing) || len(c.Boot().Loaded) != 2 {
		t.Errorf("without the stub: %v, loaded %v", err, c.Boot().Loaded)
	}
}

// TestCCLogEdits: a log that does not lead to the registers is refused.
func TestCCLogEdits(t *testing.T) {
	raw, rtmr := ccSample(t)
	end := len(raw)
	for end > 0 && raw[end-1] == raw[len(raw)-1] {
		end--
	}
	flip := func(at int) []byte { b := append([]byte(nil), raw...); b[at] ^= 1; return b }
	other := rtmr
	other[1] = bytes.Repeat([]byte{1}, evidence.SHA384.Size())
	for name, tc := range map[string]struct {
		raw  []byte
		rtmr [RTMRs][]byte
		want error
	}{
		"none":            {nil, rtmr, keystead.ReasonEvidenceMissing},
		"another quote":   {raw, other, keystead.ReasonPCRMismatch},
		"flipped digest":  {flip(end / 2), rtmr, keystead.ReasonPCRMismatch},
		"cut in an event": {raw[:end/2], rtmr, keystead.ReasonLogTruncated},
		"filling altered": {flip(len(raw) - 1), rtmr, nil},
	} {
		_, err := OpenCC(tc.raw, tc.rtmr)
		if err == nil || tc.want != nil && !errors.Is(err, tc.want) {
			t.Errorf("%s: got %v, want %v", name, err, tc.want)
		}
	}
}

func FuzzCCLog(f *testing.F) {
	raw, rtmr := ccSample(f)
	f.Add(raw[:4096])
	f.Add(raw[:32768])
	f.Fuzz(func(t *testing.T, raw []byte) {
		if c, err := OpenCC(raw, rtmr); err == nil {
			c.Boot()
		}
	})
}
