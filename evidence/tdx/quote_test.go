package tdx_test

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"github.com/google/go-tdx-guest/abi"
	pb "github.com/google/go-tdx-guest/proto/tdx"
	"github.com/google/go-tdx-guest/testing/testdata"

	"github.com/keystead/keystead"
	"github.com/keystead/keystead/evidence"
	"github.com/keystead/keystead/evidence/tdx"
	"github.com/keystead/keystead/internal/foundry"
	"github.com/keystead/keystead/internal/samples"
)

// TestPeerReadsAlike: Google's library reads a recorded quote of version 4 as this room does.
func TestPeerReadsAlike(t *testing.T) {
	parsed, err := abi.QuoteToProto(testdata.RawQuote)
	if err != nil {
		t.Fatal(err)
	}
	peer, ok := parsed.(*pb.QuoteV4)
	if !ok {
		t.Fatalf("the peer reads a %T", parsed)
	}
	q, err := tdx.Parse(bytes.TrimSuffix(testdata.RawQuote, peer.ExtraBytes))
	if err != nil {
		t.Fatal(err)
	}
	b := peer.TdQuoteBody
	if !bytes.Equal(q.TCBSVN, b.TeeTcbSvn) || !bytes.Equal(q.MRTD, b.MrTd) || !bytes.Equal(q.ReportData, b.ReportData) || !bytes.Equal(q.MRSeam, b.MrSeam) ||
		!bytes.Equal(q.RTMR[3], b.Rtmrs[3]) || !bytes.Equal(q.MRConfigID, b.MrConfigId) || q.Debuggable() {
		t.Errorf("this room reads %+v, the peer %v", q, b)
	}
	if fmspc, authority, err := q.Machine(); fmspc != "50806f000000" || authority != "platform" || err != nil {
		t.Errorf("%s, %s, %v", fmspc, authority, err)
	}
	var format *keystead.FormatError
	if _, err := tdx.Parse(testdata.RawQuote); !errors.As(err, &format) || format.Field != "end" {
		t.Errorf("with the bytes that follow it: %v", err)
	}
}

// TestRealQuoteAltered: in a real quote no bit before the certificates may differ.
func TestRealQuoteAltered(t *testing.T) {
	raw, at := samples.Read(t, samples.Oasis, "common/sgx/pcs/testdata/quote_v4_tdx_ecdsa_p256.bin"), time.Date(2024, 9, 2, 8, 0, 0, 0, time.UTC)
	if _, err := tdx.Verify(raw, evidence.ShippedRoots(), at); err != nil {
		t.Fatal(err)
	}
	certificates := bytes.Index(raw, []byte("-----BEGIN"))
	for i := range certificates {
		altered := bytes.Clone(raw)
		altered[i] ^= 1 << (i % 8)
		_, err := tdx.Verify(altered, evidence.ShippedRoots(), at)
		var format *keystead.FormatError
		if !errors.Is(err, keystead.ReasonSignatureInvalid) && !errors.Is(err, keystead.ReasonQEUnbound) && !errors.As(err, &format) {
			t.Errorf("byte %d: %v", i, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	intel := foundry.NewIntel()
	f.Add(intel.Quote([64]byte{}, foundry.Quoting{Version: 4}))
	f.Add(intel.Quote([64]byte{}, foundry.Quoting{Version: 5}))
	f.Fuzz(func(t *testing.T, raw []byte) {
		q, err := tdx.Parse(raw)
		var format *keystead.FormatError
		if err != nil && !errors.As(err, &format) {
			t.Errorf("%v is no FormatError", err)
		}
		if err == nil {
			q.Machine()
		}
	})
}
