package practice

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"

	"github.com/keystead/keystead/internal/recording"
	"github.com/keystead/keystead/internal/swtpm"
)

// The files of a stage, below its directory: what a verifier of its machines needs.
const (
	EKRoot    = "ek-root.pem" // authority of the TPMs' endorsement certificates
	Reference = "host.refs"   // reference set of the machines' packages
	CodeSet   = "codeset.txt" // how the machines boot, unsigned
)

// A Stage is an authority that certifies software TPMs, and the recorded boot that
// its machines go through.
type Stage struct {
	Recording *recording.Recording

	dir string
	ca  *swtpm.CA
}

// New sets up a stage over a recording.
func New(rec *recording.Recording) (*Stage, error) {
	dir, err := os.MkdirTemp("", "keystead-stage-")
	if err != nil {
		return nil, err
	}
	s := &Stage{Recording: rec, dir: dir}
	if s.ca, err = swtpm.NewCA(dir); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// Publish writes what a verifier of the machines needs to dir, which exists.
func (s *Stage) Publish(dir string) error {
	for name, content := range map[string][]byte{
		Reference: s.Recording.Reference,
		CodeSet:   []byte(s.Recording.CodeSet),
		EKRoot:    pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.ca.Root.Raw}),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// Root is the authority's certificate.
func (s *Stage) Root() *x509.Certificate { return s.ca.Root }

// Authority certifies the machines' TPMs.
func (s *Stage) Authority() *swtpm.CA { return s.ca }

// Alone sets up one machine in dir, which must not exist yet, with the verifier's
// files beside its own. Stop ends and removes all of it.
func Alone(ctx context.Context, dir string) (m *Machine, stop func() error, err error) {
	rec, err := recording.Load(recording.Committed())
	if err != nil {
		return nil, nil, err
	}
	s, err := New(rec)
	if err != nil {
		return nil, nil, err
	}
	if m, err = s.Machine(ctx, dir); err != nil {
		return nil, nil, errors.Join(err, s.Close())
	}
	stop = func() error { return errors.Join(m.Stop(), s.Close()) }
	if err := s.Publish(dir); err != nil {
		return nil, nil, errors.Join(err, stop())
	}
	return m, stop, nil
}

// Machines sets up several machines at once, each in dir/NAME.
func (s *Stage) Machines(ctx context.Context, dir string, names ...string) (map[string]*Machine, error) {
	type made struct {
		name string
		m    *Machine
		err  error
	}
	all := make(chan made)
	for _, name := range names {
		go func() {
			m, err := s.Machine(ctx, filepath.Join(dir, name))
			all <- made{name, m, err}
		}()
	}
	out := map[string]*Machine{}
	var errs []error
	for range names {
		x := <-all
		if x.err == nil {
			out[x.name] = x.m
		}
		errs = append(errs, x.err)
	}
	if err := errors.Join(errs...); err != nil {
		for _, m := range out {
			err = errors.Join(err, m.Stop())
		}
		return nil, err
	}
	return out, nil
}

// Close removes the authority. Machines are stopped by themselves.
func (s *Stage) Close() error { return os.RemoveAll(s.dir) }
