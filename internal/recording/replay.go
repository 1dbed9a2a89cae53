package recording

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/internal/cursor"
)

// Extend is TPM2_PCR_Extend of whichever TPM the caller has, in all given banks.
type Extend func(pcr int, digests map[evidence.Bank][]byte) error

// Replay extends what phase number n measured. Phase 0 begins with the firmware's
// log, so that replaying phases 0 to n in order takes a fresh TPM to the values
// recorded at the end of phase n.
func (r *Recording) Replay(n int, extend Extend) error {
	log := r.Phases[n].IMALog
	if n == 0 {
		if err := replayEvents(r.EventLog, extend); err != nil {
			return err
		}
	} else {
		log = log[len(r.Phases[n-1].IMALog):]
	}
	return replayIMA(log, extend)
}

const (
	evNoAction     = 3 // TCG PC Client Platform Firmware Profile 1.06, 10.4.1
	maxEvents      = 1 << 16
	maxEventData   = 16 << 20
	maxIMATemplate = 1 << 20
)

// replayEvents walks a crypto-agile log (TCG PC Client Platform Firmware Profile
// 1.06, 10.2) and extends the digests that it states.
func replayEvents(raw []byte, extend Extend) error {
	c := cursor.New("tcg2-event-log", binary.LittleEndian, raw)
	c.U32("first PCR")
	c.U32("first type")
	c.Bytes(evidence.SHA1.Size(), "first digest")
	if spec := c.Sized32(maxEventData, "spec id"); !bytes.HasPrefix(spec, []byte("Spec ID Event03\x00")) {
		c.Fail("spec id", "the log does not open with Spec ID Event03")
	}
	for n := 0; c.Len() > 0; n++ {
		pcr, kind := c.U32("PCR"), c.U32("type")
		count := int(c.U32("digest count"))
		if n > maxEvents || count > 8 {
			c.Fail("digest count", "%d digests in event %d", count, n)
		}
		digests := map[evidence.Bank][]byte{}
		for range count {
			if c.Err() != nil {
				return c.Err()
			}
			bank := evidence.Bank(c.U16("algorithm"))
			if bank.Size() == 0 || digests[bank] != nil {
				c.Fail("algorithm", "%v is not known, or stated twice", bank)
			}
			digests[bank] = c.Bytes(bank.Size(), "digest")
		}
		data := c.Sized32(maxEventData, "event data")
		if kind == evNoAction && bytes.HasPrefix(data, []byte("StartupLocality\x00")) && data[len(data)-1] != 0 {
			c.Fail("startup locality", "is %d: a register 0 that starts there can not be replayed", data[len(data)-1])
		}
		if kind != evNoAction {
			checkRegister(c, pcr)
		}
		if c.Err() != nil {
			return c.Err()
		}
		if kind == evNoAction {
			continue
		}
		if err := extend(int(pcr), digests); err != nil {
			return fmt.Errorf("event %d: %w", n+1, err)
		}
	}
	return c.Err()
}

// replayIMA walks binary_runtime_measurements in its little-endian form.
func replayIMA(raw []byte, extend Extend) error {
	for entries := 1; len(raw) > 0; entries++ {
		n, err := imaEntry(raw, extend)
		if err != nil {
			return fmt.Errorf("ima: entry %d: %w", entries, err)
		}
		raw = raw[n:]
	}
	return nil
}

// PrefixSize returns how many bytes the first entries of an IMA log take.
func PrefixSize(imaLog []byte, entries int) (size int, err error) {
	ignore := func(int, map[evidence.Bank][]byte) error { return nil }
	for n := range entries {
		length, err := imaEntry(imaLog[size:], ignore)
		if err != nil {
			return 0, fmt.Errorf("ima: entry %d: %w", n+1, err)
		}
		size += length
	}
	return size, nil
}

// imaEntry extends the first entry's template digest, recomputed for both banks.
// It returns the entry's length in bytes, 0 at the end of the log.
func imaEntry(raw []byte, extend Extend) (int, error) {
	if len(raw) == 0 {
		return 0, nil
	}
	c := cursor.New("ima", binary.LittleEndian, raw)
	pcr := c.U32("PCR")
	checkRegister(c, pcr)
	logged := c.Bytes(evidence.SHA1.Size(), "template digest")
	if name := c.Sized32(64, "template name"); string(name) == "ima" {
		c.Fail("template name", "the ima template is not replayed here")
	}
	template := c.Sized32(maxIMATemplate, "template data")
	if c.Err() != nil {
		return 0, c.Err()
	}
	violation := bytes.Equal(logged, make([]byte, len(logged)))
	digests := map[evidence.Bank][]byte{}
	for _, bank := range []evidence.Bank{evidence.SHA256, evidence.SHA384} {
		h := bank.Hash().New()
		h.Write(template)
		d := h.Sum(nil)
		if violation { // extended with ones, so that it can not be mistaken
			d = bytes.Repeat([]byte{0xff}, bank.Size())
		}
		digests[bank] = d
	}
	return c.Offset(), extend(int(pcr), digests)
}

func checkRegister(c *cursor.Cursor, pcr uint32) {
	if pcr >= evidence.NumPCRs {
		c.Fail("PCR", "is %d, registers are 0 to %d", pcr, evidence.NumPCRs-1)
	}
}
