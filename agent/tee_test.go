package agent

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-configfs-tsm/configfs/configfsi"
	"github.com/google/go-configfs-tsm/configfs/faketsm"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/appraise"
	"github.com/keystead/keystead/collect"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/internal/foundry"
	"github.com/keystead/keystead/policy"
)

// guestOf is the kernel's configfs-tsm as its module imitates it, on a made-up chip.
func guestOf(amd *foundry.AMD) configfsi.Client {
	sub := faketsm.ReportV7(0)
	read := sub.ReadAttr
	sub.ReadAttr = func(e *faketsm.ReportEntry, attr string) ([]byte, error) {
		switch attr {
		case "provider":
			return []byte("sev_guest\n"), nil
		case "outblob":
			if _, err := read(e, attr); err != nil {
				return nil, err
			}
			return amd.Report([64]byte(e.InAttrs["inblob"].Value), nil), nil
		case "auxblob":
			return nil, nil
		}
		return read(e, attr)
	}
	sub.Random = rand.Reader
	return &faketsm.Client{Subsystems: map[string]configfsi.Client{"report": sub}}
}

// TestGuestInADomain takes a host whose TEE speaks alone through its life: its agent asks
// the kernel's interface for reports, says how it is enrolled, and is admitted and renewed.
func TestGuestInADomain(t *testing.T) {
	t.Parallel()
	foundry.Now = time.Now().UTC()
	amd := foundry.NewAMD(1)
	d, m := newDomain(t)
	p, err := policy.Compile([]byte("keystead-policy/1\nname tee\nminimum-assurance test\nsoftware report\nboot report\ntee accepted\nrules none\n"), appraise.Vocabulary())
	must(t, err)
	key := evidence.Piece{Kind: evidence.CollateralAMDKey, Name: fmt.Sprintf("%x/%016x", amd.ChipID, amd.TCB), Data: amd.Certificates()[0]}
	d.guests = &appraise.Input{Policy: p, TEERoots: evidence.VendorRoots{Test: amd.Roots().Hardware}, Collateral: foundry.Collateral(append(amd.Pieces(false), key)...)}
	d.tsm = guestOf(amd)
	a := d.start(m, func(c *Config) { c.Evidence.IntervalMS, c.TEE.Alone, c.TPM.Path = 100, true, "/dev/none" })
	want := evidence.TEEHost{Kind: evidence.KindSNP, Machine: strings.Repeat("01", 64), Key: keystead.Sum(a.self.public)}
	if a.ek != want.Identity() {
		t.Errorf("the identity is %v", a.ek)
	}
	s := d.phase(a, Unenrolled)
	if s.GetEnrolment() != "keystead host enrol web-1 --tee sev-snp --machine "+want.Machine+" --key "+want.Key.String()+" --domain domain.json --member member.key" {
		t.Errorf("the command is %q", s.GetEnrolment())
	}
	d.enrol(a)
	if s = d.phase(a, Admitted); s.GetAssurance() != "test" {
		t.Errorf("admitted: %v", s)
	}
	d.await("renewals", func() bool { return len(d.asked) > 1 && d.asked[1].accepted && !d.asked[1].continues })
}

// TestGuestPlace: the directory of such a host, and what its TEE has to say of it.
func TestGuestPlace(t *testing.T) {
	t.Parallel()
	d, m := newDomain(t)
	dir := filepath.Join(t.TempDir(), "agent")
	must(t, Prepare(dir, Place{Host: "web-1", Domain: d.file, Digest: d.digest, TEE: true}))
	cfg, err := ReadConfig(filepath.Join(dir, ConfigFile))
	must(t, err)
	if !cfg.TEE.Alone {
		t.Error("its TEE does not speak alone")
	}
	self, err := loadKey(dir)
	must(t, err)
	ctx := t.Context()
	h, err := TEEHost(ctx, dir, collect.Machine{Root: m.Dir, TSM: guestOf(foundry.NewAMD(2))})
	must(t, err)
	if h.Key != keystead.Sum(self.public) || h.Machine != strings.Repeat("02", 64) || h.Check() != nil {
		t.Errorf("%+v", h)
	}
	if _, err := TEEHost(ctx, dir, collect.Machine{Root: m.Dir}); err == nil || !strings.Contains(err.Error(), "no trusted execution environment answers; configfs-tsm: is not there") {
		t.Errorf("without a TEE: %v", err)
	}
	if _, err := TEEHost(ctx, m.Dir, collect.Machine{}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without a key: %v", err)
	}
}
