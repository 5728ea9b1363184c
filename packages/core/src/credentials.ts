/** Shapes of credentials, each bounded and without nested repetition, so that no text makes them slow. */
const shapes =
  /\b(?:sk|pk|rk|gsk|xai|AIza)[-_][\w-]{8,200}|\b(?:Bearer|Basic) +[\w.~+/=-]{8,2000}|\beyJ[\w-]{8,2000}\.[\w-]{4,4000}\.[\w-]{4,2000}|([?&](?:key|api[-_]?key|token|sig)=)[^&\s"']{1,500}|(:\/\/)[^\s/?#@"']{1,500}@/gi

/**
 * `text` with `[redacted]` in place of what looks like a credential: API keys of the known providers, bearer and basic
 * authorization, JSON web tokens, keys in a query, names and passwords in a URL. It knows shapes, not secrets: what looks
 * like nothing goes through.
 *
 * @example
 * redactCredentials('Incorrect API key provided: sk-proj-0123456789')
 */
export function redactCredentials(text: string): string {
  return text.replace(shapes, (_, query: string | undefined, scheme: string | undefined) => {
    if (scheme !== undefined) return `${scheme}[redacted]@`
    return `${query ?? ''}[redacted]`
  })
}
