package evidence

import "fmt"

// The kinds of trusted execution environments.
const (
	KindSNP   = "sev-snp" // AMD SEV-SNP: ATTESTATION_REPORT
	KindTDX   = "tdx"     // Intel TDX: DCAP quote, version 4 or 5
	KindSGX   = "sgx"     // Intel SGX: DCAP quote, version 3
	KindNitro = "nitro"   // AWS Nitro Enclaves: COSE_Sign1 attestation document
)

// Bounds of a TEE item, beside MaxEventLog for its log.
const (
	MaxReport       = 64 << 10 // bytes of the evidence itself
	maxCertificates = 8
)

// TEE is evidence of a trusted execution environment, in its vendor's own form.
type TEE struct {
	Kind         string   `cbor:"1,keyasint"`           // KindSNP, …
	Report       []byte   `cbor:"2,keyasint"`           // report, quote or document
	Certificates [][]byte `cbor:"3,keyasint,omitempty"` // DER, as the machine sent them: VCEK or VLEK first
	Log          []byte   `cbor:"4,keyasint,omitempty"` // CCEL, the log of the measurement registers
}

// TEEClaims are about a trusted execution environment. Which of them a kind of TEE
// has is in docs/spec/policy.md.
type TEEClaims struct {
	Kind         string   `cel:"kind" json:"kind"`
	Level        string   `cel:"level" json:"level"`                 // tee-vm, tee-process; test when debugged, or under a root for tests
	Launch       string   `cel:"launch" json:"launch"`               // sha384:HEX of what was loaded: MEASUREMENT, MRTD, PCR0; sha256:HEX of MRENCLAVE
	LaunchName   string   `cel:"launch_name" json:"launch_name"`     // what a code set calls that measurement; empty when none accepts it
	Signer       string   `cel:"signer" json:"signer"`               // ID_KEY_DIGEST, MRSIGNER, PCR8; empty when nobody signed
	Registers    []string `cel:"registers" json:"registers"`         // RTMR 0 to 3, or PCR 0 to 15 of Nitro
	HostData     string   `cel:"host_data" json:"host_data"`         // hex of what the host gave at launch: HOST_DATA, MRCONFIGID, CONFIGID
	Machine      string   `cel:"machine" json:"machine"`             // hardware identity, hex: CHIP_ID, PPID; module id of Nitro
	Platform     string   `cel:"platform" json:"platform"`           // product or FMSPC
	Root         string   `cel:"root" json:"root"`                   // digest of the vendor's root certificate
	Debug        bool     `cel:"debug" json:"debug"`                 // memory may be read from outside
	Privilege    int64    `cel:"privilege" json:"privilege"`         // VMPL: 0 is most
	ProductID    int64    `cel:"product_id" json:"product_id"`       // ISVPRODID
	SVN          int64    `cel:"svn" json:"svn"`                     // GUEST_SVN, ISVSVN
	TCB          []int64  `cel:"tcb" json:"tcb"`                     // levels that the certificate vouches for
	TCBCommitted []int64  `cel:"tcb_committed" json:"tcb_committed"` // levels below which the platform can not go back
	TCBStatus    string   `cel:"tcb_status" json:"tcb_status"`       // UpToDate, OutOfDate, … where the vendor says so
	TCBNumber    int64    `cel:"tcb_number" json:"tcb_number"`       // tcbEvaluationDataNumber of the collateral
	Advisories   []string `cel:"advisories" json:"advisories"`       // that concern this level
	Loaded       []string `cel:"loaded" json:"loaded"`               // sha384:HEX of each event in RTMR 1: boot loader, kernel and what surrounds them
	Booted       []string `cel:"booted" json:"booted"`               // sha384:HEX of each event in RTMR 2: command lines, initrd and what a boot loader reads
	CommandLines []string `cel:"command_lines" json:"command_lines"` // texts in RTMR 2 that have their event's digest: what a boot loader was told
	LogCovered   bool     `cel:"log_covered" json:"log_covered"`     // the log leads to RTMR 0 to 3
}

func (t *TEE) check() error {
	switch t.Kind {
	case KindSNP, KindTDX, KindSGX, KindNitro:
	default:
		return fmt.Errorf("kind is %.40q, want sev-snp, tdx, sgx or nitro", t.Kind)
	}
	switch {
	case len(t.Report) == 0 || len(t.Report) > MaxReport:
		return fmt.Errorf("the report is %d bytes long, 1 to %d are accepted", len(t.Report), MaxReport)
	case len(t.Certificates) > maxCertificates:
		return fmt.Errorf("there are %d certificates, at most %d are accepted", len(t.Certificates), maxCertificates)
	case len(t.Log) > MaxEventLog:
		return fmt.Errorf("the log is %d bytes long, at most %d are accepted", len(t.Log), MaxEventLog)
	}
	return nil
}
