//! Every public type in the adapters' signatures can be named through the adapter itself, so that
//! an application depends on one crate. The test is that this compiles.

#![expect(dead_code, reason = "names are all that is tried")]

/// The names of both adapters. Each function has a parameter or result of a public method, so that
/// the name is that of the same type.
macro_rules! check {
    ($adapter:ident) => {
        mod $adapter {
            use core::net::IpAddr;
            use core::task::{Context, Poll};
            use core::time::Duration;
            use std::sync::Arc;

            use $adapter::{
                ADDRESSES_MAX, Authorization, Cidr, CidrError, CloseReason, Closed, Config,
                ConfigBuilder, ConfigError, DECISIONS_MAX, DECISIONS_PER_ADDRESS_MAX, Decision,
                Disposition, ExchangeClient, ExchangeRequest, Fault, Frame, Handle, HandlerReturn,
                HealthExtras, Limits, Listener, Metrics, Peer, Principal, ProtectedResource, Rate,
                RateError, Reach, Refusal, RequestHead, ResponseHead, ReturnsFuture,
                ReturnsNothing, SendError, Session, SessionId, SessionSender, ShardId,
                StaticTokens, StaticTokensBuilder, StaticTokensError, Stopped, Timeouts, Tls,
                TlsError, TlsProblem, Verdict, VerdictCache, WORKERS_MAX, http1, jsonrpc, rustls,
                sse,
            };

            const NUMBERS: [usize; 4] =
                [ADDRESSES_MAX, DECISIONS_MAX, DECISIONS_PER_ADDRESS_MAX, WORKERS_MAX];

            fn listener(listener: Listener) -> (Handle, std::io::Result<Listener>) {
                let handle = listener.handle();
                let cache = VerdictCache::new().lifetime(Some(Duration::ZERO));
                let answer = async |head: Arc<RequestHead>| -> Decision {
                    let _ = head;
                    Decision::new(Verdict::Refuse(Refusal::Forbidden)).valid_for(Duration::ZERO)
                };
                (handle, listener.verdict_cache(cache).authorize(answer))
            }

            fn sent_to_another_thread(listener: Listener, other: Listener) -> impl Send {
                let serve =
                    listener.serve(async |mut session| while session.recv().await.is_some() {});
                (serve, other.serve_on_workers(async |session| drop(session)))
            }

            fn tls(config: Arc<rustls::ServerConfig>) -> Result<Tls, TlsError> {
                let _: fn(&TlsError) -> &TlsProblem = TlsError::problem;
                let _ = Tls::from_config(config);
                Tls::from_pem_files("cert", "key")
            }

            fn handle(handle: &Handle, report: HealthExtras) {
                handle.set_health_extras(report.gauge("children", 1));
            }

            async fn verbs(handle: &Handle, frame: Frame) -> Result<(Reach, Metrics), Stopped> {
                Ok((handle.broadcast(frame).await?, handle.metrics().await?))
            }

            async fn exchange(
                handle: &Handle,
                request: ExchangeRequest,
                peer: Peer,
            ) -> Result<ExchangeClient, Stopped> {
                handle.exchange(request, peer).await
            }

            fn poll(talk: &mut ExchangeClient, cx: &mut Context<'_>) -> Poll<Option<ResponseHead>> {
                talk.poll_head(cx)
            }

            fn head(head: &RequestHead) -> (http1::Method, http1::Version, Option<IpAddr>) {
                (head.method(), head.version(), head.client())
            }

            fn counted(metrics: &Metrics, fault: Fault) -> (u64, Disposition) {
                (metrics.fault(fault), fault.disposition())
            }

            fn closed(closed: Closed) -> Option<Fault> {
                match closed.reason {
                    CloseReason::Fault(fault) => Some(fault),
                    _ => None,
                }
            }

            fn session(session: &Session) -> (SessionId, SessionSender, Option<&Principal>) {
                (session.id(), session.sender(), session.principal())
            }

            async fn message(session: &mut Session) -> Option<(jsonrpc::Message, jsonrpc::Kind)> {
                let message = session.recv().await?;
                let kind = message.kind();
                Some((message, kind))
            }

            fn frame(text: &[u8]) -> Result<Frame, sse::FrameError> {
                Frame::message(text)
            }

            fn sent(session: &Session, frame: Frame) -> Result<(), SendError> {
                session.try_send(frame)
            }

            fn limits(rate: &str) -> Result<(Limits, Timeouts), RateError> {
                let rate: Rate = rate.parse()?;
                let limits = Limits { posts_rate_per_session: Some(rate), ..Limits::default() };
                Ok((limits, Timeouts::default()))
            }

            fn tokens() -> Result<StaticTokens, StaticTokensError> {
                let builder: StaticTokensBuilder = StaticTokens::builder();
                builder.build()
            }

            fn range(text: &str) -> Result<Cidr, CidrError> {
                text.parse()
            }

            fn config(tokens: StaticTokens) -> Result<Config, ConfigError> {
                let builder: ConfigBuilder = Config::builder();
                builder
                    .authorization(Authorization::Static(tokens))
                    .protected_resource(ProtectedResource::new("https://mcp.example"))
                    .shard(ShardId(0))
                    .build()
            }

            fn handed() -> impl HandlerReturn<ReturnsNothing> {}

            fn served() -> impl HandlerReturn<ReturnsFuture> {
                async {}
            }
        }
    };
}

check!(mcp_sse_smol);
check!(mcp_sse_tokio);

mod tokio_alone {
    use mcp_sse_tokio::rmcp::{
        CancellationToken, SessionAdapter, SessionTransport, SseServer, SseServerConfig,
        SseServerTransport, TransportError,
    };
    use mcp_sse_tokio::tower::SseBody;
    use mcp_sse_tokio::{HandlerReturn, ReturnsJoinHandle, Session, SseService, SseServiceBuilder};
    use rmcp::transport::{IntoTransport, Transport};

    fn spawned() -> impl HandlerReturn<ReturnsJoinHandle> {
        tokio::spawn(async {})
    }

    fn service(builder: SseServiceBuilder) -> std::io::Result<SseService> {
        builder.with_sessions(drop)
    }

    fn body(answer: http::Response<SseBody>) -> SseBody {
        answer.into_body()
    }

    fn transport(session: Session) -> impl Transport<rmcp::RoleServer, Error = TransportError> {
        IntoTransport::<rmcp::RoleServer, TransportError, SessionAdapter>::into_transport(session)
    }

    async fn next(server: &mut SseServer) -> Option<SseServerTransport> {
        let transport: Option<SessionTransport> = server.next_transport().await;
        transport
    }

    fn token(config: &SseServerConfig) -> &CancellationToken {
        &config.ct
    }
}
