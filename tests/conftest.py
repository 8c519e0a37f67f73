"""What holds for all tests."""

from hypothesis import HealthCheck, settings

# The same examples each time, and none fails since the machine is busy; --hypothesis-profile=explore draws new ones
settings.register_profile("steady", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("explore", settings.get_profile("steady"), derandomize=False, max_examples=1000)
settings.load_profile("steady")
