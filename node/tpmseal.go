package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/collect"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/evidence/tpm2"
	"github.com/keystead/keystead/key"
	"github.com/keystead/keystead/replica"
)

// TPMSeal keeps the record of a clean shutdown in a file that serves once, on one
// machine: it carries the value of a counter in the TPM, which is incremented when
// the record is written and again when it is used, and the TPM certifies it while
// the boot registers hold what they hold. Whoever restores an old disk, with the
// file or without, finds the counter ahead of it (docs/spec/sealed.md).
//
// It trusts the TPM, and that nobody makes the TPM certify a record who has the
// machine in the same state of its registers.
type TPMSeal struct {
	TPM  *collect.TPM
	AK   collect.AKType
	PCRs []int // registers of the boot; none: collect.BootPCRs
	FS   vfs.FS
	Path string
}

var _ replica.Seal = TPMSeal{}

// tpmPatience bounds what the TPM does for one record.
const tpmPatience = 30 * time.Second

// Put implements replica.Seal. If it fails, at whatever step, there is no record
// that serves: the counter is ahead of every older one.
func (s TPMSeal) Put(r replica.SealRecord) error {
	ctx, cancel := context.WithTimeout(context.Background(), tpmPatience)
	defer cancel()
	count, err := s.TPM.Increment(ctx)
	if err != nil {
		return err
	}
	record := shutdownRecord{count: count, state: r}
	if record.cert, err = s.TPM.Certify(ctx, record.binding(), s.AK, s.registers()); err != nil {
		return err
	}
	w, err := s.FS.Create(s.Path+".new", vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	_, err = w.Write(record.encode())
	if err = errors.Join(err, w.Sync(), w.Close()); err != nil {
		return err
	}
	return errors.Join(s.FS.Rename(s.Path+".new", s.Path), s.syncDir())
}

// Take implements replica.Seal. It refuses a record of another TPM
// (sealed-elsewhere), an altered one (sealed-damaged), one that the counter has left
// behind (record-rolled-back), and one of another boot (sealed-state-changed). The
// counter is ahead of the record before Take returns it.
func (s TPMSeal) Take() (replica.SealRecord, bool, error) {
	none := replica.SealRecord{}
	record, err := s.read()
	if err != nil || record == nil {
		return none, false, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), tpmPatience)
	defer cancel()
	if err := s.check(ctx, record); err != nil {
		return none, false, err
	}
	used, err := s.TPM.Increment(ctx)
	if err != nil {
		return none, false, err
	}
	if used != record.count+1 {
		return none, false, s.stale(record.count+1, strconv.FormatUint(used, 10))
	}
	if err := errors.Join(s.FS.Remove(s.Path), s.syncDir()); err != nil {
		return none, false, err
	}
	return record.state, true, nil
}

// check holds the record against the TPM.
func (s TPMSeal) check(ctx context.Context, record *shutdownRecord) error {
	public, err := s.TPM.AK(ctx, s.AK)
	if err != nil {
		return err
	}
	quote, err := record.cert.Verify(key.DigestAK(public), record.binding())
	switch {
	case errors.Is(err, keystead.ReasonKeyForeign):
		return s.deny(keystead.ReasonSealedElsewhere, "a record by this TPM, whose attestation key is "+key.DigestAK(public).String(), "one by "+key.DigestAK(record.cert.AKPublic).String())
	case errors.Is(err, keystead.ReasonSignatureInvalid), errors.Is(err, keystead.ReasonNonceMismatch):
		return s.deny(keystead.ReasonSealedDamaged, "what this TPM certified", err.Error())
	case err != nil:
		return err
	}
	count, ok, err := s.TPM.Counter(ctx)
	switch {
	case err != nil:
		return err
	case !ok:
		return s.stale(record.count, "none")
	case count != record.count:
		return s.stale(record.count, strconv.FormatUint(count, 10))
	}
	return s.sameBoot(ctx, quote)
}

// sameBoot checks that the quote covers the registers wanted, with the values that
// they hold now.
func (s TPMSeal) sameBoot(ctx context.Context, quote *tpm2.Quote) error {
	var now []evidence.PCRs
	for _, bank := range quote.Banks() {
		values, err := s.TPM.ReadPCRs(ctx, bank, s.registers())
		if err != nil {
			return err
		}
		now = append(now, values)
	}
	covered, err := quote.CheckPCRs(now)
	if err == nil && len(covered) > 0 && len(quote.PCRs()) == len(s.registers()) {
		return nil
	}
	got := fmt.Sprintf("a record over registers %v", quote.PCRs())
	if err != nil {
		got = err.Error()
	}
	return s.deny(keystead.ReasonSealedStateChanged, fmt.Sprintf("registers %v as they were when the node was closed", s.registers()), got)
}

func (s TPMSeal) registers() []int {
	if len(s.PCRs) == 0 {
		return collect.BootPCRs()
	}
	return s.PCRs
}

func (s TPMSeal) stale(want uint64, got string) error {
	return s.deny(keystead.ReasonRecordRolledBack, fmt.Sprintf("the TPM's counter at %d, where the record left it", want), got)
}

func (s TPMSeal) deny(r keystead.Reason, want, got string) error {
	return keystead.Deny(keystead.Finding{Reason: r, Where: s.Path, Want: want, Got: got})
}

func (s TPMSeal) syncDir() error {
	d, err := s.FS.OpenDir(s.FS.PathDir(s.Path))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// read returns the record in the file, or nil if there is no file.
func (s TPMSeal) read() (*shutdownRecord, error) {
	f, err := s.FS.Open(s.Path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(f, maxShutdown+1))
	if err := errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	return parseShutdown(b)
}
