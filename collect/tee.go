package collect

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/go-configfs-tsm/configfs/configfsi"
	"github.com/google/go-configfs-tsm/report"
	"github.com/google/go-sev-guest/abi"

	"github.com/keystead/keystead/evidence"
)

// Places of trusted execution environments, below a machine's root.
const (
	tsmPath  = "sys/kernel/config/tsm/report"
	nsmPath  = "dev/nsm"
	sgxPath  = "dev/sgx_enclave"
	ccelPath = "sys/firmware/acpi/tables/data/CCEL"
)

// providers are the kernel's names for what makes reports, in configfs-tsm.
var providers = map[string]string{"sev_guest": evidence.KindSNP, "tdx_guest": evidence.KindTDX}

// TEE asks the trusted execution environment that this machine is, if it is one, for
// evidence of a binding, beside a TPM whose attestation key is akPublic (TPMT_PUBLIC; nil
// for none). It is nil where there is none. The sights say what was found, and why the
// others were not; an error is one that is there and did not answer.
func (m Machine) TEE(b evidence.Binding, akPublic []byte) (*evidence.TEE, []Sight, error) {
	data := b.ReportData(akPublic)
	var out *evidence.TEE
	tsm, err := m.tsm(func(r *report.OpenReport, kind string) (err error) {
		out, err = quoteTSM(r, kind, data[:])
		return err
	})
	sights := []Sight{tsm}
	nsm := m.sight("Nitro NSM", nsmPath, "the machine is no Nitro enclave, or its kernel lacks the nsm driver")
	if nsm.Found && out == nil && err == nil {
		out = &evidence.TEE{Kind: evidence.KindNitro}
		if out.Report, err = quoteNSM(filepath.Join(m.Root, nsmPath), data[:], b.Nonce); err != nil {
			out, nsm.Found, nsm.Detail, nsm.Hint = nil, false, err.Error(), "run as root"
		}
	}
	sights = append(sights, nsm, m.sgx())
	log, raw := m.ccel()
	if out != nil && out.Kind == evidence.KindTDX {
		out.Log = raw
	}
	return out, append(sights, log), err
}

// Surroundings says which trusted execution environment this machine is, and why not the
// others, without asking for evidence.
func (m Machine) Surroundings() []Sight {
	tsm, _ := m.tsm(nil)
	log, _ := m.ccel()
	return []Sight{tsm, m.sight("Nitro NSM", nsmPath, "the machine is no Nitro enclave, or its kernel lacks the nsm driver"), m.sgx(), log}
}

func (m Machine) sight(what, path, hint string) Sight {
	s := Sight{What: what, Where: filepath.Join(m.Root, path)}
	switch _, err := os.Stat(s.Where); {
	case err == nil:
		s.Found, s.Detail = true, "is there"
	case errors.Is(err, fs.ErrNotExist):
		s.Detail, s.Hint = "is not there", hint
	default:
		s.Detail, s.Hint = err.Error(), "run as root"
	}
	return s
}

// sgx is never a source here: an enclave's evidence is made by the enclave.
func (m Machine) sgx() Sight {
	s := m.sight("SGX", sgxPath, "the processor has no SGX, or the firmware keeps it off")
	if s.Found {
		s.Found, s.Detail, s.Hint = false, "is there, but this program is no enclave", "an application in an enclave makes its own quote"
	}
	return s
}

func (m Machine) ccel() (Sight, []byte) {
	s := m.sight("CC event log", ccelPath, "the machine is no TDX guest, or its firmware keeps no such log")
	if !s.Found {
		return s, nil
	}
	raw, err := readBounded(s.Where, evidence.MaxEventLog)
	if err != nil {
		s.Found, s.Detail, s.Hint = false, err.Error(), "run as root"
		return s, nil
	}
	s.Detail = fmt.Sprintf("%d bytes", len(raw))
	return s, raw
}

// tsm opens a report of the kernel's configfs-tsm, calls use if it is of a kind that is
// known, and removes it.
func (m Machine) tsm(use func(r *report.OpenReport, kind string) error) (s Sight, err error) {
	s = m.sight("configfs-tsm", tsmPath, "the machine is no SEV-SNP or TDX guest, the kernel is older than 6.7, or configfs is not mounted")
	client := m.TSM
	if client == nil {
		if !s.Found {
			return s, nil
		}
		client = rooted{m.Root}
	}
	s.Found = false
	trouble := func(err error) (Sight, error) {
		s.Detail, s.Hint = err.Error(), "run as root; the guest's driver (sev-guest, tdx-guest) has to be loaded"
		return s, fmt.Errorf("configfs-tsm: %w", err)
	}
	r, err := report.CreateOpenReport(client)
	if err != nil {
		return trouble(err)
	}
	defer func() { err = errors.Join(err, r.Destroy()) }()
	name, err := r.ReadOption("provider")
	if err != nil && use == nil {
		s.Found, s.Detail = true, "is there; its provider shows with a report"
		return s, nil
	}
	if use == nil {
		return named(s, name), nil
	}
	// Some kernels name the provider only once there is a question.
	kind := providers[strings.TrimSpace(string(name))]
	if err := use(r, kind); err != nil {
		return trouble(err)
	}
	if name, err = r.ReadOption("provider"); err != nil {
		return trouble(err)
	}
	return named(s, name), nil
}

func named(s Sight, provider []byte) Sight {
	name := strings.TrimSpace(string(provider))
	if kind := providers[name]; kind != "" {
		s.Found, s.Detail = true, name+", "+kind
	} else {
		s.Detail, s.Hint = fmt.Sprintf("its provider is %.40q", name), "known are sev_guest and tdx_guest"
	}
	return s
}

// quoteTSM asks for a report. An unknown provider gives none.
func quoteTSM(r *report.OpenReport, kind string, data []byte) (*evidence.TEE, error) {
	if err := r.WriteOption("inblob", data); err != nil {
		return nil, err
	}
	out, err := r.ReadOption("outblob")
	if err != nil {
		return nil, err
	}
	if kind == "" {
		name, err := r.ReadOption("provider")
		if err != nil {
			return nil, err
		}
		if kind = providers[strings.TrimSpace(string(name))]; kind == "" {
			return nil, nil
		}
	}
	t := &evidence.TEE{Kind: kind, Report: out}
	if kind == evidence.KindSNP {
		if aux, err := r.ReadOption("auxblob"); err == nil { // hosts need not give certificates: collateral has them
			t.Certificates = snpCertificates(aux)
		}
	}
	return t, nil
}

// snpCertificates returns the VCEK or VLEK of a certificate table (GHCB specification,
// 4.1.8.1); nothing for a table without either.
func snpCertificates(table []byte) [][]byte {
	var c abi.CertTable
	if len(bytes.Trim(table, "\x00")) == 0 || c.Unmarshal(table) != nil {
		return nil
	}
	for _, id := range []string{abi.VcekGUID, abi.VlekGUID} {
		if der, err := c.GetByGUIDString(id); err == nil && len(der) > 0 {
			return [][]byte{der}
		}
	}
	return nil
}

// rooted is the kernel's configfs below a root.
type rooted struct{ root string }

var _ configfsi.Client = rooted{}

func (r rooted) at(name string) string { return filepath.Join(r.root, name) }

// MkdirTemp makes a report's directory. It returns the name without the root, which is
// what the module knows.
func (r rooted) MkdirTemp(dir, pattern string) (string, error) {
	name, err := os.MkdirTemp(r.at(dir), pattern)
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, filepath.Base(name)), nil
}

// ReadFile reads an attribute of a report: at most what a bundle takes.
func (r rooted) ReadFile(name string) ([]byte, error) {
	return readBounded(r.at(name), evidence.MaxReport)
}

// ReadDir lists a directory.
func (r rooted) ReadDir(name string) ([]os.DirEntry, error) { return os.ReadDir(r.at(name)) }

// WriteFile writes an attribute.
func (r rooted) WriteFile(name string, b []byte) error { return os.WriteFile(r.at(name), b, 0o220) }

// RemoveAll removes a report, whose attributes go with it.
func (r rooted) RemoveAll(name string) error { return os.Remove(r.at(name)) }
