package evidence

// TPMKeys is how a machine introduces itself to a verifier that does not know it yet: by
// the keys of its TPM, of which nothing is believed before credential activation, or
// as a host whose evidence is that of a TEE alone.
type TPMKeys struct {
	AKPublic      []byte   // TPMT_PUBLIC
	EKPublic      []byte   // TPMT_PUBLIC
	EKCertificate [][]byte // DER, leaf first
	TEE           TEEHost  // of a host without a TPM, in place of all of these
}

// A Credential is a secret that a verifier encrypted so that only one TPM opens it,
// and only beside one attestation key (TPM 2.0 Part 1, 24). Anyone may see it.
type Credential struct {
	Blob   []byte // contents of TPM2B_ID_OBJECT
	Secret []byte // contents of TPM2B_ENCRYPTED_SECRET
}
