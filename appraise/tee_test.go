package appraise_test

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"github.com/fxamacker/cbor/v2"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/appraise"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/internal/foundry"
)

// teePolicy accepts evidence of a TEE, with further directives.
func teePolicy(directives string) string {
	return "keystead-policy/1\nname tee\nminimum-assurance test\nsoftware report\nboot report\ntee accepted\n" + directives + "rules none\n"
}

const lenient = "tee-tcb report\ntee-revocation report\n"

// withTEE returns the input with its evidence altered.
func withTEE(t testing.TB, in appraise.Input, edit func(*evidence.TEE)) appraise.Input {
	t.Helper()
	p := in.Bundle.Parts()
	e := *p.TEE
	e.Report, e.Certificates = bytes.Clone(e.Report), slices.Clone(e.Certificates)
	edit(&e)
	p.TEE = &e
	in.Bundle = bundle(t, p)
	return in
}

// forged is evidence by a made-up vendor, in answer to question.
func forged(t testing.TB, item evidence.TEE, roots evidence.VendorRoots, directives string, pieces ...evidence.Piece) appraise.Input {
	t.Helper()
	return appraise.Input{Bundle: bundle(t, evidence.Parts{Binding: question, TEE: &item}), Expect: question, Collateral: foundry.Collateral(pieces...),
		TEERoots: roots, Policy: compile(t, teePolicy(directives)), Time: foundry.Now}
}

func flip(b []byte, at int) []byte { b = bytes.Clone(b); b[at] ^= 1; return b }

// TestSNPAttacks: each way to get past the checks of a report is refused with its reason.
func TestSNPAttacks(t *testing.T) {
	amd, data := foundry.NewAMD(1), question.ReportData(nil)
	item := func(edit func([]byte)) evidence.TEE {
		return evidence.TEE{Kind: evidence.KindSNP, Report: amd.Report(data, edit), Certificates: amd.Certificates()}
	}
	good := forged(t, item(nil), amd.Roots(), "", amd.Pieces(false)...)
	demand(t, "good", good)
	signed := func(what string, edit func([]byte), reasons ...keystead.Reason) {
		t.Helper()
		demand(t, what, forged(t, item(edit), amd.Roots(), "", amd.Pieces(false)...), reasons...)
	}
	altered := func(what string, edit func(*evidence.TEE), reasons ...keystead.Reason) {
		t.Helper()
		demand(t, what, withTEE(t, good, edit), reasons...)
	}
	altered("bit of the report", func(e *evidence.TEE) { e.Report[foundry.SNPMeasurement] ^= 1 }, keystead.ReasonSignatureInvalid)
	altered("bit of the signature", func(e *evidence.TEE) { e.Report[foundry.SNPSignature+3] ^= 1 }, keystead.ReasonSignatureInvalid)
	altered("bit of the certificate", func(e *evidence.TEE) { e.Certificates[0] = flip(e.Certificates[0], len(e.Certificates[0])-3) }, keystead.ReasonVendorUntrusted)
	altered("trailing byte", func(e *evidence.TEE) { e.Report = append(e.Report, 0) }, keystead.ReasonMalformed)
	altered("torn", func(e *evidence.TEE) { e.Report = e.Report[:len(e.Report)-1] }, keystead.ReasonMalformed)
	altered("signature beyond its size", func(e *evidence.TEE) { e.Report[foundry.SNPSignature+60] = 1 }, keystead.ReasonMalformed)
	altered("no certificate", func(e *evidence.TEE) { e.Certificates = nil }, keystead.ReasonCollateralMissing)
	signed("debugger", func(b []byte) { b[foundry.SNPPolicy+2] |= 1 << 3 }, keystead.ReasonTEEDebug)
	signed("migration agent", func(b []byte) { b[foundry.SNPPolicy+2] |= 1 << 2; b[0x160] = 0 }, keystead.ReasonTEEDebug)
	signed("asked for by the host", func(b []byte) { copy(b[foundry.SNPVMPL:], "\xff\xff\xff\xff") }, keystead.ReasonTEEUnsuitable)
	signed("signed by nobody", func(b []byte) { b[foundry.SNPFlags] = 7 << 2 }, keystead.ReasonTEEUnsuitable)
	signed("masked chip", func(b []byte) { clear(b[foundry.SNPChipID:][:64]) }, keystead.ReasonTEEUnsuitable)
	signed("another chip", func(b []byte) { b[foundry.SNPChipID] ^= 1 }, keystead.ReasonMachineMismatch)
	signed("another level than certified", func(b []byte) { b[foundry.SNPReportedTCB]-- }, keystead.ReasonMachineMismatch)
	signed("committed above current", func(b []byte) { b[foundry.SNPCommitted]++ }, keystead.ReasonMachineMismatch)
	signed("another nonce", func(b []byte) { b[foundry.SNPReportData] ^= 1 }, keystead.ReasonNonceMismatch)
	signed("names a TPM that is not here", func(b []byte) { b[foundry.SNPReportData+40] = 1 }, keystead.ReasonTEEUnbound)
	demand(t, "revoked", forged(t, item(nil), amd.Roots(), lenient, amd.Pieces(true)...), keystead.ReasonKeyRevoked)
	demand(t, "another vendor's root", forged(t, item(nil), evidence.ShippedRoots(), "", amd.Pieces(false)...), keystead.ReasonVendorUntrusted)
	demand(t, "no root", forged(t, item(nil), evidence.VendorRoots{}, "", amd.Pieces(false)...), keystead.ReasonVendorUntrusted)
	demand(t, "no collateral", forged(t, item(nil), amd.Roots(), ""), keystead.ReasonCollateralMissing)

	late := good
	late.Time = foundry.Now.AddDate(0, 2, 0)
	demand(t, "expired list", late, keystead.ReasonCollateralExpired)
	revoked := forged(t, item(nil), amd.Roots(), lenient, amd.Pieces(true)...)
	revoked.Time = late.Time
	demand(t, "revoked, by a list of before", revoked, keystead.ReasonKeyRevoked)
	late.Time = foundry.Now.AddDate(2, 0, 0)
	demand(t, "expired certificate", late, keystead.ReasonVendorUntrusted)

	old := item(nil)
	amd.NewChip(2)
	demand(t, "certificate of another chip", forged(t, evidence.TEE{Kind: evidence.KindSNP, Report: old.Report, Certificates: amd.Certificates()}, amd.Roots(), "", amd.Pieces(false)...), keystead.ReasonMachineMismatch)

	replayed := good
	replayed.Expect.Nonce = []byte("another nonce of the same verifier")
	demand(t, "replayed", replayed, keystead.ReasonBundleReplayed)
	key := good
	key.Expect.SubjectKey = []byte("a key")
	demand(t, "for another key", key, keystead.ReasonBundleReplayed)
	none := good
	none.Expect.Nonce = nil
	demand(t, "no question", none, keystead.ReasonNonceMismatch)
}

// TestSNPFloor: levels below what a policy asks for fail its rule.
func TestSNPFloor(t *testing.T) {
	amd := foundry.NewAMD(1)
	text := strings.Replace(teePolicy(""), "rules none\n", "rule microcode\n  require tee.kind != \"sev-snp\" || tee.tcb[3] >= 220\n  otherwise update microcode\n", 1)
	in := forged(t, evidence.TEE{Kind: evidence.KindSNP, Report: amd.Report(question.ReportData(nil), nil), Certificates: amd.Certificates()}, amd.Roots(), "", amd.Pieces(false)...)
	in.Policy = compile(t, text)
	demand(t, "microcode 219", in, keystead.ReasonRuleFailed)
}

// TestDebugReachesTest: a policy may allow a debugger, and gets test at most; likewise a
// root that is pinned for tests.
func TestDebugReachesTest(t *testing.T) {
	amd := foundry.NewAMD(1)
	debug := evidence.TEE{Kind: evidence.KindSNP, Report: amd.Report(question.ReportData(nil), func(b []byte) { b[foundry.SNPPolicy+2] |= 1 << 3 }), Certificates: amd.Certificates()}
	in := forged(t, debug, amd.Roots(), "tee-debug allowed\n", amd.Pieces(false)...)
	demand(t, "debug allowed", in)
	in.Policy = compile(t, strings.Replace(teePolicy("tee-debug allowed\n"), "minimum-assurance test", "minimum-assurance tee-vm", 1))
	demand(t, "debug, tee-vm wanted", in, keystead.ReasonAssuranceLow)
	plain := evidence.TEE{Kind: evidence.KindSNP, Report: amd.Report(question.ReportData(nil), nil), Certificates: amd.Certificates()}
	in = forged(t, plain, evidence.VendorRoots{Test: amd.Roots().Hardware}, "", amd.Pieces(false)...)
	demand(t, "root for tests", in)
	if a := appraise.Appraise(in).Assurance(); a != evidence.AssuranceTest {
		t.Errorf("a root for tests gives %v", a)
	}
}

// TestTEENeedsConsent: a policy that does not speak of TEEs asks for a TPM, as ever.
func TestTEENeedsConsent(t *testing.T) {
	amd := foundry.NewAMD(1)
	item := evidence.TEE{Kind: evidence.KindSNP, Report: amd.Report(question.ReportData(nil), nil), Certificates: amd.Certificates()}
	in := forged(t, item, amd.Roots(), "", amd.Pieces(false)...)
	in.Policy = compile(t, strings.Replace(teePolicy(""), "tee accepted\n", "", 1))
	demand(t, "silent policy", in, keystead.ReasonEvidenceMissing)
	in.Policy = compile(t, strings.Replace(teePolicy(""), "boot report\n", "", 1))
	demand(t, "boot accepted", in, keystead.ReasonBootUnaccepted)
	in.Policy = compile(t, strings.Replace(teePolicy(""), "software report\n", "", 1))
	demand(t, "every entry", in, keystead.ReasonEvidenceMissing, keystead.ReasonEvidenceMissing)
	in = forged(t, item, amd.Roots(), "", amd.Pieces(false)...)
	p := in.Bundle.Parts()
	p.IMALog = []byte("a log that no quote covers")
	in.Bundle = bundle(t, p)
	demand(t, "a log without a quote", in, keystead.ReasonEvidenceMissing)
}

// TestDCAPAttacks: likewise for quotes of SGX and TDX, which share chain and collateral.
func TestDCAPAttacks(t *testing.T) {
	intel, data := foundry.NewIntel(), question.ReportData(nil)
	for _, tc := range []struct {
		kind           string
		version        uint16
		debug, data    int
		level          evidence.Assurance
		body, bodySize int
	}{
		{evidence.KindSGX, 3, foundry.SGXFlags, foundry.SGXData, evidence.AssuranceTEEProcess, 48, 384},
		{evidence.KindTDX, 4, foundry.TDAttributes, foundry.TDReportData, evidence.AssuranceTEEVM, 48, 584},
		{evidence.KindTDX, 5, foundry.TDAttributes, foundry.TDReportData, evidence.AssuranceTEEVM, 54, 648},
	} {
		what := tc.kind + string(rune('0'+tc.version)) + ": "
		item := func(q foundry.Quoting) evidence.TEE {
			q.Version = tc.version
			return evidence.TEE{Kind: tc.kind, Report: intel.Quote(data, q)}
		}
		world := func(name string, q foundry.Quoting, w foundry.World, directives string, reasons ...keystead.Reason) appraise.Input {
			t.Helper()
			in := forged(t, item(q), intel.Roots(), directives, intel.Pieces(w)...)
			demand(t, what+name, in, reasons...)
			return in
		}
		plain := foundry.World{}
		good := world("good", foundry.Quoting{}, plain, "")
		if v := appraise.Appraise(good); v.Assurance() != tc.level || v.Claims().TEE.TCBStatus != "UpToDate" || v.Claims().TEE.TCBNumber != 17 {
			t.Errorf("%s %v, %+v", what, v.Assurance(), v.Claims().TEE)
		}
		altered := func(name string, edit func(*evidence.TEE), reasons ...keystead.Reason) {
			t.Helper()
			demand(t, what+name, withTEE(t, good, edit), reasons...)
		}
		signature := tc.body + tc.bodySize + 4
		certification := signature + 128
		if tc.version > 3 {
			certification += 6
		}
		altered("bit of the body", func(e *evidence.TEE) { e.Report[tc.body+70] ^= 1 }, keystead.ReasonSignatureInvalid)
		altered("bit of the signature", func(e *evidence.TEE) { e.Report[signature+5] ^= 1 }, keystead.ReasonSignatureInvalid)
		altered("bit of the attestation key", func(e *evidence.TEE) { e.Report[signature+70] ^= 1 }, keystead.ReasonQEUnbound)
		altered("bit of the quoting enclave's report", func(e *evidence.TEE) { e.Report[certification+130] ^= 1 }, keystead.ReasonSignatureInvalid)
		altered("bit of its signature", func(e *evidence.TEE) { e.Report[certification+384+5] ^= 1 }, keystead.ReasonSignatureInvalid)
		altered("bit of its authentication data", func(e *evidence.TEE) { e.Report[certification+384+64+5] ^= 1 }, keystead.ReasonQEUnbound)
		altered("torn", func(e *evidence.TEE) { e.Report = e.Report[:len(e.Report)-1] }, keystead.ReasonMalformed)
		altered("trailing byte", func(e *evidence.TEE) { e.Report = append(e.Report, 1) }, keystead.ReasonMalformed)
		altered("another vendor", func(e *evidence.TEE) { e.Report[12] ^= 1 }, keystead.ReasonMalformed)
		altered("a log that leads nowhere", func(e *evidence.TEE) { e.Log = []byte{1} }, map[string]keystead.Reason{evidence.KindSGX: keystead.ReasonMalformed, evidence.KindTDX: keystead.ReasonLogTruncated}[tc.kind])
		world("key that the quoting enclave does not name", foundry.Quoting{Stranger: true}, plain, "", keystead.ReasonQEUnbound)
		world("another quoting enclave", foundry.Quoting{QESigner: 9}, plain, "", keystead.ReasonQEUnaccepted)
		bit := byte(1)
		if tc.kind == evidence.KindSGX {
			bit = 2
		}
		world("debugger", foundry.Quoting{Edit: func(b []byte) { b[tc.debug] |= bit }}, plain, "", keystead.ReasonTEEDebug)
		world("another nonce", foundry.Quoting{Edit: func(b []byte) { b[tc.data] ^= 1 }}, plain, "", keystead.ReasonNonceMismatch)
		world("out of date", foundry.Quoting{}, foundry.World{Status: "OutOfDate"}, "", keystead.ReasonTCBOutdated)
		world("out of date, reported", foundry.Quoting{}, foundry.World{Status: "OutOfDate"}, "tee-tcb report\n")
		world("below every level", foundry.Quoting{}, foundry.World{Floor: 6}, "", keystead.ReasonTCBOutdated)
		world("revoked level", foundry.Quoting{}, foundry.World{Status: "Revoked"}, "tee-tcb report\n", keystead.ReasonTCBRevoked)
		world("revoked machine", foundry.Quoting{}, foundry.World{Revoked: true}, lenient, keystead.ReasonKeyRevoked)
		world("expired", foundry.Quoting{}, foundry.World{Expired: true}, "", keystead.ReasonCollateralExpired)
		// Old collateral, or none, spares the level, and not whose quoting enclave it is.
		world("expired, reported", foundry.Quoting{}, foundry.World{Expired: true}, lenient)
		world("another quoting enclave, expired", foundry.Quoting{QESigner: 9}, foundry.World{Expired: true}, lenient, keystead.ReasonQEUnaccepted)
		world("revoked level, expired", foundry.Quoting{}, foundry.World{Status: "Revoked", Expired: true}, lenient, keystead.ReasonTCBRevoked)
		revoked := forged(t, item(foundry.Quoting{}), intel.Roots(), lenient, intel.Pieces(foundry.World{Revoked: true})...)
		revoked.Time = foundry.Now.AddDate(0, 2, 0)
		demand(t, what+"revoked machine, by a list of before", revoked, keystead.ReasonKeyRevoked)
		without := slices.DeleteFunc(intel.Pieces(foundry.World{Revoked: true}), func(p evidence.Piece) bool { return p.Kind == evidence.CollateralIntelRootCRL })
		demand(t, what+"revoked machine, without the root's list", forged(t, item(foundry.Quoting{}), intel.Roots(), lenient, without...), keystead.ReasonKeyRevoked)
		demand(t, what+"another quoting enclave, no collateral", forged(t, item(foundry.Quoting{QESigner: 9}), intel.Roots(), lenient), keystead.ReasonQEUnaccepted)
		world("of another FMSPC", foundry.Quoting{}, foundry.World{FMSPC: "00606a000000"}, lenient, keystead.ReasonMachineMismatch)
		demand(t, what+"no collateral", forged(t, item(foundry.Quoting{}), intel.Roots(), ""), keystead.ReasonCollateralMissing, keystead.ReasonCollateralMissing)
		demand(t, what+"Intel's root", forged(t, item(foundry.Quoting{}), evidence.ShippedRoots(), "", intel.Pieces(plain)...), keystead.ReasonVendorUntrusted)
		forgedInfo := intel.Pieces(plain)
		for i := range forgedInfo {
			if forgedInfo[i].Kind == evidence.CollateralIntelTCBInfo {
				forgedInfo[i].Data = bytes.Replace(forgedInfo[i].Data, []byte(`"svn":5`), []byte(`"svn":1`), 1)
			}
		}
		demand(t, what+"altered TCB info", forged(t, item(foundry.Quoting{}), intel.Roots(), lenient, forgedInfo...), keystead.ReasonCollateralInvalid)
	}
}

// TestTDXModule: a module that the vendor did not sign, and one that its collateral does
// not know.
func TestTDXModule(t *testing.T) {
	intel := foundry.NewIntel()
	quote := func(edit func([]byte)) appraise.Input {
		return forged(t, evidence.TEE{Kind: evidence.KindTDX, Report: intel.Quote(question.ReportData(nil), foundry.Quoting{Version: 4, Edit: edit})}, intel.Roots(), "", intel.Pieces(foundry.World{})...)
	}
	demand(t, "another signer", quote(func(b []byte) { b[64] = 1 }), keystead.ReasonQEUnaccepted)
	demand(t, "debugged module", quote(func(b []byte) { b[112] = 1 }), keystead.ReasonQEUnaccepted)
	demand(t, "unknown version", quote(func(b []byte) { b[foundry.TDSVN+1] = 9 }), keystead.ReasonTCBOutdated)
	demand(t, "migratable", quote(func(b []byte) { b[foundry.TDAttributes+3] |= 1 << 5 }), keystead.ReasonTEEDebug)
	demand(t, "below the level", quote(func(b []byte) { b[foundry.TDSVN] = 4 }), keystead.ReasonTCBOutdated)
}

// TestNitroAttacks: likewise for documents of Nitro.
func TestNitroAttacks(t *testing.T) {
	aws, data := foundry.NewAWS(), question.ReportData(nil)
	item := func(edit func(map[string]any)) evidence.TEE {
		return evidence.TEE{Kind: evidence.KindNitro, Report: aws.Document(question.Nonce, data[:], edit)}
	}
	good := forged(t, item(nil), aws.Roots(), "")
	demand(t, "good", good)
	signed := func(what string, edit func(map[string]any), reasons ...keystead.Reason) {
		t.Helper()
		demand(t, what, forged(t, item(edit), aws.Roots(), ""), reasons...)
	}
	payload := func(what string, raw []byte, reasons ...keystead.Reason) {
		t.Helper()
		demand(t, what, forged(t, evidence.TEE{Kind: evidence.KindNitro, Report: aws.Sign(raw)}, aws.Roots(), ""), reasons...)
	}
	signed("another nonce", func(m map[string]any) { m["nonce"] = []byte("another") }, keystead.ReasonNonceMismatch)
	signed("no nonce", func(m map[string]any) { m["nonce"] = nil }, keystead.ReasonNonceMismatch)
	signed("other user data", func(m map[string]any) { m["user_data"] = []byte("other") }, keystead.ReasonNonceMismatch)
	signed("no user data", func(m map[string]any) { m["user_data"] = nil }, keystead.ReasonNonceMismatch)
	signed("debug mode", func(m map[string]any) { m["pcrs"].(map[int][]byte)[0] = make([]byte, 48) }, keystead.ReasonTEEDebug)
	signed("no PCR0", func(m map[string]any) { delete(m["pcrs"].(map[int][]byte), 0) }, keystead.ReasonMalformed)
	signed("short PCR", func(m map[string]any) { m["pcrs"].(map[int][]byte)[4] = make([]byte, 32) }, keystead.ReasonMalformed)
	signed("PCR 32", func(m map[string]any) { m["pcrs"].(map[int][]byte)[32] = make([]byte, 48) }, keystead.ReasonMalformed)
	signed("another digest", func(m map[string]any) { m["digest"] = "SHA1" }, keystead.ReasonMalformed)
	signed("unknown field", func(m map[string]any) { m["more"] = 1 }, keystead.ReasonMalformed)
	signed("no authorities", func(m map[string]any) { m["cabundle"] = [][]byte{} }, keystead.ReasonMalformed)
	signed("nine authorities", func(m map[string]any) { m["cabundle"] = slices.Repeat(m["cabundle"].([][]byte), 5) }, keystead.ReasonMalformed)
	signed("oversize", func(m map[string]any) { m["public_key"] = make([]byte, 20<<10) }, keystead.ReasonMalformed)
	signed("authorities in the wrong order", func(m map[string]any) { slices.Reverse(m["cabundle"].([][]byte)) }, keystead.ReasonVendorUntrusted)
	payload("deep CBOR", append(bytes.Repeat([]byte{0x81}, 10000), 0), keystead.ReasonMalformed)
	one := func(k string, v any) []byte { return slices.Concat(must(cbor.Marshal(k)), must(cbor.Marshal(v))) }
	payload("duplicate keys", slices.Concat([]byte{0xa2}, one("digest", "SHA384"), one("digest", "SHA384")), keystead.ReasonMalformed)
	payload("indefinite length", []byte{0xbf, 0xff}, keystead.ReasonMalformed)
	demand(t, "trailing bytes", withTEE(t, good, func(e *evidence.TEE) { e.Report = append(e.Report, 0) }), keystead.ReasonMalformed)
	demand(t, "tagged", withTEE(t, good, func(e *evidence.TEE) { e.Report = append([]byte{0xd2}, e.Report...) }), keystead.ReasonMalformed)
	demand(t, "bit of the signature", withTEE(t, good, func(e *evidence.TEE) { e.Report[len(e.Report)-1] ^= 1 }), keystead.ReasonSignatureInvalid)
	at := bytes.Index(good.Bundle.Parts().TEE.Report, bytes.Repeat([]byte{0x10}, 48))
	demand(t, "wrong PCR0", withTEE(t, good, func(e *evidence.TEE) { e.Report[at] ^= 1 }), keystead.ReasonSignatureInvalid)
	demand(t, "AWS's root", forged(t, item(nil), evidence.ShippedRoots(), ""), keystead.ReasonVendorUntrusted)
	pinned := good
	pinned.Policy = compile(t, strings.Replace(teePolicy(""), "rules none\n", "rule image\n  require tee.launch == \"sha384:00\"\n  otherwise run our image\n", 1))
	demand(t, "another image", pinned, keystead.ReasonRuleFailed)
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// TestBothSpeak: evidence of a TEE and of a TPM in one bundle are of one machine only if
// the TEE names the TPM's key, and the TPM's assurance is the verdict's.
func TestBothSpeak(t *testing.T) {
	amd := foundry.NewAMD(1)
	in, _ := onStage(t).input(t, "packaged")
	in.TEERoots, in.Collateral = amd.Roots(), foundry.Collateral(amd.Pieces(false)...)
	p := in.Bundle.Parts()
	with := func(data [64]byte) appraise.Input {
		p.TEE = &evidence.TEE{Kind: evidence.KindSNP, Report: amd.Report(data, nil), Certificates: amd.Certificates()}
		out := in
		out.Bundle = bundle(t, p)
		return out
	}
	both := with(question.ReportData(p.TPM.AKPublic))
	demand(t, "both", both)
	if v := appraise.Appraise(both); v.Assurance() != evidence.AssuranceTest || v.Claims().TEE.Level != "tee-vm" {
		t.Errorf("assurance %v, tee.level %s", v.Assurance(), v.Claims().TEE.Level)
	}
	demand(t, "two machines", with(question.ReportData(nil)), keystead.ReasonTEEUnbound)
}

func FuzzTEE(f *testing.F) {
	amd, intel, aws, data := foundry.NewAMD(1), foundry.NewIntel(), foundry.NewAWS(), question.ReportData(nil)
	roots := evidence.VendorRoots{Hardware: slices.Concat(amd.Roots().Hardware, intel.Roots().Hardware, aws.Roots().Hardware)}
	collateral := foundry.Collateral(slices.Concat(amd.Pieces(false), intel.Pieces(foundry.World{}))...)
	policy := compile(f, teePolicy(""))
	kinds := []string{evidence.KindSNP, evidence.KindTDX, evidence.KindSGX, evidence.KindNitro}
	f.Add(0, amd.Report(data, nil), amd.Certificates()[0])
	f.Add(1, intel.Quote(data, foundry.Quoting{Version: 5}), []byte{})
	f.Add(2, intel.Quote(data, foundry.Quoting{Version: 3}), []byte{})
	f.Add(3, aws.Document(question.Nonce, data[:], nil), []byte{})
	f.Fuzz(func(t *testing.T, kind int, report, certificate []byte) {
		item := evidence.TEE{Kind: kinds[uint(kind)%4], Report: report}
		if len(certificate) > 0 {
			item.Certificates = [][]byte{certificate}
		}
		b, err := evidence.New(evidence.Parts{Binding: question, TEE: &item})
		if err != nil {
			return
		}
		v := appraise.Appraise(appraise.Input{Bundle: b, Expect: question, Collateral: collateral, TEERoots: roots, Policy: policy, Time: foundry.Now})
		if v.Allowed() == (len(v.Findings()) > 0) {
			t.Errorf("allowed %v with %v", v.Allowed(), v.Findings())
		}
	})
}

// TestTEENeverContinues: evidence with a TEE leaves nothing to go on from, and no
// continuation brings one.
func TestTEENeverContinues(t *testing.T) {
	amd := foundry.NewAMD(1)
	in, _ := onStage(t).input(t, "packaged")
	in.TEERoots, in.Collateral = amd.Roots(), foundry.Collateral(amd.Pieces(false)...)
	without, first := appraise.Follow(in)
	if !without.Allowed() || first == nil {
		t.Fatalf("without a TEE: %v, state %v", without.Err(), first)
	}
	p := in.Bundle.Parts()
	p.TEE = &evidence.TEE{Kind: evidence.KindSNP, Report: amd.Report(question.ReportData(p.TPM.AKPublic), nil), Certificates: amd.Certificates()}
	both := in
	both.Bundle = bundle(t, p)
	v, state := appraise.Follow(both)
	if !v.Allowed() || state != nil {
		t.Errorf("with a TEE: %v, state %v", v.Err(), state)
	}
	next := both
	next.Prior = first
	next.Bundle = must(evidence.Continue(p, first.Reference()))
	demand(t, "continued with a TEE", next, keystead.ReasonLogUnknown)
}
