package eventlog

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/evidence"
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
