/** Longer texts of a provider are clipped to this many characters. */
const maxChars = 2048

/** Shapes of credentials, each bounded and without nested repetition, so that no text makes them slow. */
const credentials =
  /\b(?:sk|pk|rk|gsk|xai|AIza)[-_][\w-]{8,200}|\bBearer +[\w.~+/=-]{8,2000}|\beyJ[\w-]{8,2000}\.[\w-]{4,4000}\.[\w-]{4,2000}|([?&](?:key|api[-_]?key|token)=)[^&\s"']{1,500}/gi

/** `text` without the given secrets and without anything that looks like a credential, clipped, control characters out. */
export function redact(text: string, secrets: readonly string[]): string {
  let clean = text
  for (const secret of secrets) if (secret.length >= 4) clean = clean.replaceAll(secret, '[redacted]')
  clean = clean.replace(credentials, (_, query: string | undefined) => `${query ?? ''}[redacted]`)
  // biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is removed; a log line must stay one line
  clean = clean.replace(/[\u0000-\u001f\u007f-\u009f\u2028\u2029]+/g, ' ')
  return clean.length > maxChars ? `${clean.slice(0, maxChars)}…` : clean
}
