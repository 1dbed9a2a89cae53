package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/keystead/keystead/collect"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/internal/conf"
)

// A Sealer encrypts what only this machine, as it booted, may open again: a TPM.
type Sealer interface {
	// Seal encrypts at most 64 bytes.
	Seal(ctx context.Context, secret []byte) (blob []byte, err error)
	// Unseal returns what Seal encrypted, or why this machine does not open it now.
	Unseal(ctx context.Context, blob []byte) (secret []byte, err error)
}

// Names of the epoch's secret in a node's directory.
const (
	epochFile    = "epoch.sealed"   // by the node's Sealer
	unsealedFile = "epoch.unsealed" // as it is, by a node without one: whoever reads the directory has it
)

// sealTime bounds what a Sealer may take.
const sealTime = 30 * time.Second

// vault keeps the epoch's secret over restarts.
type vault struct {
	dir    string
	sealer Sealer
}

func (v *vault) path() string {
	if v.sealer == nil {
		return filepath.Join(v.dir, unsealedFile)
	}
	return filepath.Join(v.dir, epochFile)
}

// load returns what keep kept; nil if there is nothing.
func (v *vault) load(ctx context.Context) ([]byte, error) {
	b, err := conf.ReadSecret(v.path())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil || v.sealer == nil {
		return b, err
	}
	ctx, cancel := context.WithTimeout(ctx, sealTime)
	defer cancel()
	secret, err := v.sealer.Unseal(ctx, b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", v.path(), err)
	}
	return secret, nil
}

// keep puts a secret in the place of the last one.
func (v *vault) keep(ctx context.Context, secret []byte) error {
	if v.sealer != nil {
		ctx, cancel := context.WithTimeout(ctx, sealTime)
		defer cancel()
		blob, err := v.sealer.Seal(ctx, secret)
		if err != nil {
			return err
		}
		secret = blob
	}
	next := v.path() + ".new"
	if err := os.Remove(next); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := conf.WriteNew(next, secret); err != nil {
		return err
	}
	if err := os.Rename(next, v.path()); err != nil {
		return err
	}
	d, err := os.Open(v.dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// TPMSealer is a TPM as a Sealer: what it sealed opens on this machine alone, and while
// the boot registers hold what they hold (docs/spec/sealed.md).
type TPMSealer struct {
	TPM  *collect.TPM
	Bank evidence.Bank // 0: sha256
	PCRs []int         // none: collect.BootPCRs
}

var _ Sealer = TPMSealer{}

// Seal implements Sealer.
func (s TPMSealer) Seal(ctx context.Context, secret []byte) ([]byte, error) {
	bank, registers := s.Bank, s.PCRs
	if bank == 0 {
		bank = evidence.SHA256
	}
	if len(registers) == 0 {
		registers = collect.BootPCRs()
	}
	return s.TPM.Seal(ctx, secret, bank, registers)
}

// Unseal implements Sealer. Its refusals are those of [collect.TPM.Unseal].
func (s TPMSealer) Unseal(ctx context.Context, blob []byte) ([]byte, error) {
	return s.TPM.Unseal(ctx, blob)
}
